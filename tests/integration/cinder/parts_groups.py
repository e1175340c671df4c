"""Groups and consistency groups; taking in what is there and letting it go."""

import os
import threading

import api
import volumes
from volumes import GIB, create, delete, delete_snapshot, fill, holds, snapshot


def group_type(name, **specs):
    for one in api.get('/group_types')['group_types']:
        if one['name'] == name:
            return one['id']
    made = api.post('/group_types', {'group_type': {'name': name}})['group_type']['id']
    if specs:
        api.post('/group_types/%s/group_specs' % made, {'group_specs': specs})
    return made


def volume_type_id(name):
    return next(one['id'] for one in api.get('/types')['volume_types'] if one['name'] == name)


def make_group(kind, backend='a'):
    made = api.post('/groups', {'group': {'group_type': kind, 'volume_types': [volume_type_id(backend)]}})['group']
    api.wait('groups', made['id'])
    return made['id']


def delete_group(the_id):
    api.action('groups', the_id, 'delete', {'delete-volumes': True})
    api.wait('groups', the_id, None)


class Counter:
    """Writes 1, 2, 3... into the same place of each of some files in turn."""

    def __init__(self, paths):
        self.files = [os.open(path, os.O_RDWR) for path in paths]
        self.going = True
        self.written = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while self.going:
            self.written += 1
            for file in self.files:
                os.pwrite(file, self.written.to_bytes(8, 'little') * 512, 0)

    def stop(self):
        self.going = False
        self.thread.join()
        for file in self.files:
            os.close(file)


def count_in(volume_id):
    with volumes.attached(volume_id) as path:
        found = volumes.read_at(path, 0, 4096)
    assert found == found[:8] * 512, 'a torn block'
    return int.from_bytes(found[:8], 'little')


def consistent_groups():
    """Snapshots of a group are one instant over all of its volumes, while they are written to."""
    kind = group_type('consistent', consistent_group_snapshot_enabled='<is> True')
    group = make_group(kind)
    members = [create(1, group_id=group) for _ in range(4)]
    attachments = [volumes.Attachment(one) for one in members]
    writer = Counter([one.path for one in attachments])
    try:
        taken = api.post('/group_snapshots', {'group_snapshot': {'group_id': group}})['group_snapshot']['id']
        api.wait('group_snapshots', taken)
    finally:
        writer.stop()
    for one in attachments:
        one.detach()
    copy = api.post('/groups/action', {'create-from-src': {'group_snapshot_id': taken}})['group']['id']
    api.wait('groups', copy)
    copies = sorted(api.get('/volumes', group_id=copy)['volumes'], key=lambda one: one['id'])
    assert len(copies) == 4, copies
    # Whichever copy is whose: in an instant, volumes hold n or, those not reached yet, n - 1.
    counts = sorted(count_in(one['id']) for one in copies)
    assert counts[0] >= counts[-1] - 1 and counts[-1] > 0, 'no single instant: %s' % counts
    twin = api.post('/groups/action', {'create-from-src': {'source_group_id': group}})['group']['id']
    api.wait('groups', twin)
    assert all(count_in(one['id']) == writer.written
               for one in api.get('/volumes', group_id=twin)['volumes'])
    api.delete('/group_snapshots/' + taken)
    api.wait('group_snapshots', taken, None)
    for one in (group, copy, twin):
        delete_group(one)


def generic_groups():
    """Without a promise of consistency they are the manager's own."""
    group = make_group(group_type('generic'))
    members = [create(1, group_id=group) for _ in range(2)]
    fill(members[0], 1)
    outside = create(1)
    api.put('/groups/' + group, {'group': {'add_volumes': outside, 'remove_volumes': members[1]}})
    api.wait('groups', group)
    assert api.show('volumes', outside)['group_id'] == group
    assert not api.show('volumes', members[1])['group_id']
    taken = api.post('/group_snapshots', {'group_snapshot': {'group_id': group}})['group_snapshot']['id']
    api.wait('group_snapshots', taken)
    fill(members[0], 2)
    copy = api.post('/groups/action', {'create-from-src': {'group_snapshot_id': taken}})['group']['id']
    api.wait('groups', copy)
    held = set()
    for one in api.get('/volumes', group_id=copy)['volumes']:
        with volumes.attached(one['id']) as path:
            held.add(volumes.read_at(path, 0, 1 << 20))
    assert held == {volumes.pattern(1), bytes(1 << 20)}
    api.delete('/group_snapshots/' + taken)
    api.wait('group_snapshots', taken, None)
    delete_group(group)
    delete_group(copy)
    delete(members[1])


def manageable(kind='manageable_volumes', backend='a'):
    found = api.get('/%s/detail' % kind, host=volumes.HOSTS[backend])[kind.replace('_', '-')]
    return {one['reference']['source-name']: one for one in found}


def refuse(status, function, *arguments):
    try:
        function(*arguments)
    except api.Refused as error:
        assert error.status == status, error
    else:
        raise AssertionError('it was not refused')


def manage(name, backend='a'):
    return api.post('/manageable_volumes', {'volume': {
        'host': volumes.HOSTS[backend], 'ref': {'source-name': name}, 'volume_type': backend}})['volume']['id']


def manage_and_unmanage():
    volumes.voltree('a', 'create', 'mine', '1500M')
    path = '/mnt/a/volumes/mine'
    volumes.write_at(path, 0, volumes.pattern(1))
    volumes.voltree('a', 'snapshot', 'mine@before')
    volumes.write_at(path, 0, volumes.pattern(2))
    assert manageable()['mine']['size'] == 2 and manageable()['mine']['safe_to_manage']
    one = manage('mine')
    assert api.wait('volumes', one)['size'] == 2
    holds(one, 2)
    assert not manageable()['volume-' + one]['safe_to_manage']
    entry = manageable('manageable_snapshots')['before']
    assert entry['source_reference'] == {'source-name': 'volume-' + one}
    taken = api.post('/manageable_snapshots', {'snapshot': {
        'volume_id': one, 'ref': {'source-name': 'before'}}})['snapshot']['id']
    api.wait('snapshots', taken)
    copy = create(2, snapshot_id=taken)
    holds(copy, 1)
    delete(copy)
    # Nonsense: an error, and what there was is still there when the record is deleted.
    wrong = manage('no-such-volume')
    try:
        api.wait('volumes', wrong)
    except AssertionError:
        delete(wrong)
    else:
        raise AssertionError('what is not there was taken in')
    refuse(400, manage, 'volume-' + one)
    holds(one, 2)
    # Letting go keeps the data.
    api.action('snapshots', taken, 'os-unmanage')
    api.wait('snapshots', taken, None)
    api.action('volumes', one, 'os-unmanage')
    api.wait('volumes', one, None)
    names = [node['name'] for node in volumes.nodes('a')]
    assert sorted(names) == ['volume-' + one, 'volume-%s@snapshot-%s' % (one, taken)], names
    volumes.expect('/mnt/a/volumes/volume-' + one, 2)
    volumes.voltree('a', 'delete', '--snapshots', 'volume-' + one)


def manage_files():
    """A raw file becomes a volume: itself where the store's daemon may have it, otherwise by its contents, and then it
    stays."""
    folder, path = '/srv/images', '/srv/images/disk.raw'
    store = os.stat(volumes.STORES['a'])
    with open(path, 'wb') as file:
        file.truncate(GIB + 5000)
    volumes.write_at(path, 1 << 20, volumes.pattern(1))
    volumes.write_at(path, GIB - 100, volumes.pattern(2, 5000))
    for name in ('/etc/passwd', '/srv/images/../../etc/passwd', '/srv/images/none'):
        wrong = manage(name)
        try:
            api.wait('volumes', wrong)
        except AssertionError:
            delete(wrong)
        else:
            raise AssertionError('%s was taken in' % name)
    for owner in (0, store.st_uid):
        for its in (folder, path):
            os.chown(its, owner, -1)
        moves = owner == store.st_uid and os.stat(folder).st_dev == store.st_dev
        one = manage(path)
        assert api.wait('volumes', one)['size'] == 2
        holds(one, 1, 1 << 20)
        holds(one, 2, GIB - 100, 5000)
        holds(one, None, 2 * GIB - (1 << 20))
        assert os.path.exists(path) != moves, (path, owner)
        delete(one)
        if not moves:
            volumes.expect(path, 1, 1 << 20)
    if os.path.exists(path):
        os.unlink(path)
    os.chown(folder, 0, -1)


PARTS = {one.__name__: one for one in (consistent_groups, generic_groups, manage_and_unmanage, manage_files)}
