"""Retype, limits, migration."""

import os
import time

import api
import volumes
from volumes import GIB, attached, create, delete, delete_snapshot, expect, fill, holds, snapshot


def qos_type(name, backend, consumer, **specs):
    for one in api.get('/types')['volume_types']:
        if one['name'] == name:
            return
    kind = volumes.make_type(name, volume_backend_name=backend)
    qos = api.post('/qos-specs', {'qos_specs': dict({'name': name, 'consumer': consumer}, **specs)})['qos_specs']['id']
    api.get('/qos-specs/%s/associate' % qos, vol_type_id=kind)


def limits(the_id, backend='a'):
    return volumes.voltree(backend, 'qos', volumes.store_name(the_id))['limits']


def retype(the_id, kind, policy='never', status='available'):
    api.action('volumes', the_id, 'os-retype', {'new_type': kind, 'migration_policy': policy})
    for _ in range(900):
        shown = api.show('volumes', the_id)
        if shown['volume_type'] == kind and shown['status'] == status:
            return shown
        assert not shown['status'].startswith('error'), shown
        if shown['status'] == status and shown.get('migration_status') == 'error':
            break
        time.sleep(0.2)
    raise AssertionError('%s is not of type %s: %s %s' % (the_id, kind, shown, api.messages(the_id)))


def limits_of_types():
    qos_type('slow', 'a', 'back-end', total_iops_sec='500')
    qos_type('slower', 'a', 'both', read_bytes_sec_per_gb='1048576', write_iops_sec='100')
    qos_type('front', 'a', 'front-end', total_iops_sec='700')
    one = create(2, volume_type='slow')
    assert limits(one)['total_iops_sec'] == 500, limits(one)
    fill(one, 1)
    clone = create(2, source_volid=one)
    assert limits(clone)['total_iops_sec'] == 500, limits(clone)
    retype(one, 'slower')
    found = limits(one)
    assert found['write_iops_sec'] == 100 and found['read_bytes_sec_per_gb'] == 1 << 20, found
    assert not found.get('total_iops_sec'), found
    attachment = volumes.Attachment(one)
    assert attachment.info['qos_specs']['write_iops_sec'] == '100', attachment.info  # Nova's, too: both
    attachment.detach()
    retype(one, 'a')
    assert limits(one) == {}, limits(one)
    retype(one, 'front')
    attachment = volumes.Attachment(one)
    assert attachment.info['qos_specs']['total_iops_sec'] == '700', attachment.info
    attachment.detach()
    assert not limits(one).get('total_iops_sec'), limits(one)
    holds(one, 1)
    delete(one, clone)


def migrate(the_id, backend, force=False):
    """Returns when it lives there."""
    api.action('volumes', the_id, 'os-migrate_volume', {'host': volumes.HOSTS[backend], 'force_host_copy': force})
    for _ in range(900):
        shown = api.show('volumes', the_id)
        if shown['os-vol-host-attr:host'] == volumes.HOSTS[backend] and shown['migration_status'] == 'success':
            break
        assert shown['migration_status'] != 'error', api.messages(the_id)
        time.sleep(0.2)
    return api.wait('volumes', the_id)


def left_alone(backend):
    """The manager, where it copies, deletes what is left of a volume after it has told of its success."""
    for _ in range(300):
        if not volumes.nodes(backend):
            return
        time.sleep(0.2)
    raise AssertionError(volumes.nodes(backend))


def migration():
    """Between two stores, there and back: by the driver; and by the manager, who copies."""
    if 'either' not in [one['name'] for one in api.get('/types')['volume_types']]:
        volumes.make_type('either', volume_backend_name='<or> a <or> b')
    for force in (False, True):
        one = create(1, 'either')
        here = api.show('volumes', one)['os-vol-host-attr:host'][len('cinder@')]
        there = 'b' if here == 'a' else 'a'
        fill(one, 1)
        fill(one, 2, GIB - (1 << 20))
        migrate(one, there, force)
        left_alone(here)
        assert len(volumes.nodes(there)) == 1, volumes.nodes(there)
        holds(one, 1)
        holds(one, 2, GIB - (1 << 20))
        holds(one, None, GIB // 2)
        delete_snapshot(snapshot(one))
        migrate(one, here, force)
        holds(one, 1)
        left_alone(there)
        delete(one)


def retype_with_migration():
    one = create(1)
    fill(one, 1)
    retype(one, 'b', 'on-demand')
    assert api.show('volumes', one)['os-vol-host-attr:host'] == volumes.HOSTS['b']
    holds(one, 1)
    assert not volumes.nodes('a')
    delete(one)


def statistics():
    pools = volumes.wait_for_pools()
    for backend, host in volumes.HOSTS.items():
        found = pools[host]
        assert found['backend_state'] == 'up', found
        info = os.statvfs(volumes.STORES[backend])
        assert abs(found['total_capacity_gb'] - info.f_blocks * info.f_frsize / GIB) < 1, found
        assert found['thin_provisioning_support'] and found['multiattach'], found
    one = create(7)
    for _ in range(600):
        if volumes.wait_for_pools()[volumes.HOSTS['a']]['provisioned_capacity_gb'] == 7:
            break
        time.sleep(0.2)
    else:
        raise AssertionError('what is provisioned is not told')
    delete(one)


PARTS = {one.__name__: one for one in (limits_of_types, migration, retype_with_migration, statistics)}
