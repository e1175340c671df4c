"""Making, attaching, filling and deleting volumes: the vocabulary of the parts."""

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import time

from os_brick.initiator import connector as brick

import api

GIB = 1 << 30
STORES = {'a': '/var/lib/voltree-a', 'b': '/var/lib/voltree-b', 'loop': '/var/lib/voltree-loop'}
HOSTS = {'a': 'cinder@a#a', 'b': 'cinder@b#b', 'loop': 'cinder-root@loop#loop'}


def set_up():
    """Types and back ends, once."""
    known = [one['name'] for one in api.get('/types')['volume_types']]
    for name in STORES:
        if name not in known:
            make_type(name, volume_backend_name=name)
    if 'multi' not in known:
        make_type('multi', volume_backend_name='a', multiattach='<is> True')
    pools = wait_for_pools()
    for host in HOSTS.values():
        assert host in pools, 'the scheduler does not know %s: %s' % (host, sorted(pools))


def wait_for_pools():
    for _ in range(600):
        pools = {one['name']: one['capabilities']
                 for one in api.get('/scheduler-stats/get_pools', detail=True)['pools']}
        if set(HOSTS.values()) <= set(pools):
            return pools
        time.sleep(0.2)
    return pools


def make_type(name, **extra_specs):
    made = api.post('/types', {'volume_type': {'name': name, 'extra_specs': extra_specs}})
    return made['volume_type']['id']


# --- The stores, beside Cinder.

def voltree(backend, *arguments):
    out = subprocess.run(['voltree', '--store', STORES[backend], '--json', *arguments], check=True,
                         capture_output=True, text=True).stdout
    return json.loads(out)


def nodes(backend):
    return voltree(backend, 'list')['nodes']


def store_names():
    return ['%s:%s' % (backend, node['name']) for backend in STORES for node in nodes(backend)]


def store_name(the_id):
    """A volume's name in its store: after a migration it carries another id."""
    shown = api.show('volumes', the_id)
    return 'volume-' + (shown.get('os-vol-mig-status-attr:name_id') or the_id)


# --- Volumes.

def create(size=1, backend='a', status='available', **more):
    body = dict({'size': size, 'volume_type': backend}, **more)
    for key in ('snapshot_id', 'source_volid'):
        if key in body and 'volume_type' not in more:
            del body['volume_type']
    made = api.post('/volumes', {'volume': body})['volume']
    if status:
        api.wait('volumes', made['id'], status)
    return made['id']


def delete(*ids):
    for the_id in ids:
        api.delete('/volumes/' + the_id)
    for the_id in ids:
        api.wait('volumes', the_id, None)


def snapshot(volume_id, force=False):
    made = api.post('/snapshots', {'snapshot': {'volume_id': volume_id}})['snapshot']
    api.wait('snapshots', made['id'])
    return made['id']


def delete_snapshot(*ids):
    for the_id in ids:
        api.delete('/snapshots/' + the_id)
    for the_id in ids:
        api.wait('snapshots', the_id, None)


def sweep():
    """After a failure: whatever can be deleted is, so that the next part begins as it should."""
    for one in api.get('/attachments', all_tenants=1)['attachments']:
        with contextlib.suppress(Exception):
            api.delete('/attachments/' + one['id'])
    for one in api.get('/volumes', all_tenants=1)['volumes']:
        with contextlib.suppress(Exception):
            api.action('volumes', one['id'], 'os-reset_status', {'status': 'error', 'attach_status': 'detached'})
            api.delete('/volumes/' + one['id'], cascade=True, force=True)
            api.wait('volumes', one['id'], None)
    for backend in STORES:
        for node in nodes(backend):
            with contextlib.suppress(Exception):
                voltree(backend, 'delete', '--snapshots', node['name'])


# --- Attaching, as Nova does it: the attachments API and os-brick.

ROOT_HELPER = 'sudo cinder-rootwrap /etc/cinder/rootwrap.conf'


@functools.cache
def host_properties():
    return brick.get_connector_properties(ROOT_HELPER, '127.0.0.1', False, False)


def connector_properties(mode=None):
    return dict(host_properties(), mode=mode) if mode else host_properties()


class Attachment:
    def __init__(self, volume_id, mode=None):
        # Without an instance: Cinder would ask Nova whether it lets go.
        self.id = api.post('/attachments', {'attachment': {
            'volume_uuid': volume_id, 'mode': mode or 'rw'}})['attachment']['id']
        info = api.put('/attachments/' + self.id, {'attachment': {'connector': connector_properties(mode)}})
        self.info = info['attachment']['connection_info']
        self.connector = brick.InitiatorConnector.factory(
            self.info['driver_volume_type'].upper(), ROOT_HELPER)
        self.path = self.connector.connect_volume(self.info)['path']
        api.action('attachments', self.id, 'os-complete')

    def detach(self):
        self.connector.disconnect_volume(self.info, None)
        api.delete('/attachments/' + self.id)


@contextlib.contextmanager
def attached(volume_id, **how):
    attachment = Attachment(volume_id, **how)
    try:
        yield attachment.path
    finally:
        attachment.detach()
    api.wait('volumes', volume_id)


def pattern(seed, length=1 << 20):
    block = hashlib.sha256(str(seed).encode()).digest()
    return (block * (length // len(block) + 1))[:length]


def write_at(path, offset, data):
    fd = os.open(path, os.O_RDWR)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
        os.fsync(fd)
    finally:
        os.close(fd)


def read_at(path, offset, length):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def size_of(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def fill(volume_id, seed, offset=0, length=1 << 20):
    with attached(volume_id) as path:
        write_at(path, offset, pattern(seed, length))


def holds(volume_id, seed, offset=0, length=1 << 20):
    """Asserts it; a seed of None: zeros."""
    with attached(volume_id) as path:
        expect(path, seed, offset, length)


def expect(path, seed, offset=0, length=1 << 20):
    wanted = bytes(length) if seed is None else pattern(seed, length)
    found = read_at(path, offset, length)
    assert found == wanted, '%s at %d holds %s..., not what seed %s makes' % (path, offset, found[:16].hex(), seed)
