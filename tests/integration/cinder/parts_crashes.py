"""kill -9 of the daemon and of cinder-volume around each call of the driver.

The back end "crash" has a cinder-volume of its own, which reaches its daemon through a socket of ours. So a call can be
cut exactly: before the daemon has it, while it works on it, or when it has answered and nobody knows yet. What Cinder
then has, its user sees and can mend with Cinder's means alone; the store has neither lost, doubled nor kept anything.
"""

import contextlib
import functools
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time

import api
import parts_groups
import parts_images
import parts_moves
import volumes
from volumes import GIB, create, snapshot

BACKEND, SPARE = 'crash', 'spare'
EITHER = 'crash-or-spare'  # a type whose volumes may be on both
SOCKET = '/run/crash/control.sock'
UPSTREAM = '/var/lib/voltree-crash/run/control.sock'
DAEMON, SERVICE = 'voltree-crash', 'cinder-volume-crash'


def kill(name):
    with open('/run/started/' + name, encoding='ascii') as file:
        pid = int(file.read())
    os.killpg(os.getpgid(pid), signal.SIGKILL)


def start(name):
    subprocess.run(['/tests/start', name], check=True)


def kill_daemon():
    kill(DAEMON)
    start(DAEMON)


def kill_service():
    kill(SERVICE)


class Proxy:
    """Between the driver and its daemon."""

    def __init__(self):
        self.plan = None  # (call, when, action): once
        self.done = threading.Event()
        self.seen = {}
        self.lock = threading.Lock()
        os.makedirs(os.path.dirname(SOCKET), exist_ok=True)
        if os.path.exists(SOCKET):
            os.unlink(SOCKET)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(SOCKET)
        os.chmod(SOCKET, 0o666)
        self.listener.listen(64)
        threading.Thread(target=self.run, daemon=True).start()

    def cut(self, call, when, action):
        self.done.clear()
        with self.lock:
            self.plan = (call, when, action)

    def take(self, call):
        with self.lock:
            self.seen[call] = self.seen.get(call, 0) + 1
            if self.plan and self.plan[0] == call:
                plan, self.plan = self.plan, None
                return plan[1], plan[2]
        return None, None

    def run(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with contextlib.suppress(OSError), connection, connection.makefile('rb') as requests:
            for request in requests:
                when, action = self.take(json.loads(request)['params'].get('call'))
                if when == 'before':
                    action()
                    self.done.set()
                    return
                answer = self.forward(request, action if when == 'during' else None)
                if when:
                    if when == 'after':
                        action()
                    self.done.set()
                    return
                if answer is None:
                    return
                connection.sendall(answer)

    @staticmethod
    def forward(request, action):
        """What the daemon says, or None when it died over it."""
        try:
            with socket.socket(socket.AF_UNIX) as upstream:
                upstream.connect(UPSTREAM)
                upstream.sendall(request)
                if action:
                    time.sleep(random.random() * 0.004)
                    action()
                answer = b''
                with upstream.makefile('rb') as lines:
                    for line in lines:
                        answer += line
                        if b'"id"' in line:
                            return answer
        except OSError:
            pass
        return None


# --- What there is, on both sides.

def known():
    """{name in the store: (kind, id, status, size in GiB)} of what Cinder has."""
    found = {}
    for one in api.get('/volumes/detail', all_tenants=1)['volumes']:
        name_id = one.get('os-vol-mig-status-attr:name_id') or one['id']
        found['volume-' + name_id] = ('volumes', one['id'], one['status'], one['size'])
    for one in api.get('/snapshots/detail', all_tenants=1)['snapshots']:
        found['volume-%s@snapshot-%s' % (one['volume_id'], one['id'])] = (
            'snapshots', one['id'], one['status'], one['size'])
    return found


PASSING = ('creating', 'deleting', 'extending', 'reverting', 'attaching', 'detaching', 'downloading', 'uploading',
           'retyping', 'managing', 'unmanaging', 'reserved', 'backing-up')


def settle():
    """Until nothing changes: at the latest when what a killed service had begun can only be reset by hand."""
    last, since = None, time.monotonic()
    while True:
        now = {name: value[2] for name, value in known().items()}
        if now != last:
            last, since = now, time.monotonic()
        quiet = time.monotonic() - since
        if quiet > (4 if any(status in PASSING for status in now.values()) else 0.3):
            return
        time.sleep(0.1)


def nothing_lost(expected):
    """What Cinder calls available is there, at its size; what was there before holds what it held."""
    stored = {node['name']: node['size_bytes'] for node in volumes.nodes(BACKEND)}
    there = known()
    for name, (_, _, status, size) in there.items():
        if status in ('available', 'in-use'):
            assert name in stored, '%s is lost' % name
            assert stored[name] == size * GIB, '%s has %d bytes, not %d GiB' % (name, stored[name], size)
    for name in stored:
        # An image that was under way when the daemon died: the next call for its volume takes it away.
        unfinished = '.import-' in name or '.export-' in name
        assert name in there or unfinished or name == 'volume-by-hand', 'nobody knows of %s' % name
    for path, seed in expected.items():
        volumes.expect('/mnt/crash/' + path, seed)


def end_backup(the_id):
    """One whose service was killed is waited for a minute by cinder-backup; it is reset only then."""
    deadline = time.monotonic() + 120
    reset = False
    while api.show('backups', the_id)['status'] not in ('available', 'error'):
        assert time.monotonic() < deadline, api.show('backups', the_id)
        if not reset and time.monotonic() > deadline - 30:
            api.action('backups', the_id, 'os-reset_status', {'status': 'error'})
            reset = True
        time.sleep(0.2)
    api.delete('/backups/' + the_id)
    api.wait('backups', the_id, None)


def clean(keep):
    """As an administrator does it, with Cinder alone."""
    for one in api.get('/attachments', all_tenants=1)['attachments']:
        api.delete('/attachments/' + one['id'])
    for one in api.get('/backups', all_tenants=1)['backups']:
        end_backup(one['id'])
    for group in api.get('/groups', all_tenants=1)['groups']:
        api.action('groups', group['id'], 'reset_status', {'status': 'available'})
    for taken in api.get('/group_snapshots', all_tenants=1)['group_snapshots']:
        api.action('group_snapshots', taken['id'], 'reset_status', {'status': 'error'})
        api.delete('/group_snapshots/' + taken['id'])
        api.wait('group_snapshots', taken['id'], None)
    there = known()
    for kind in ('snapshots', 'volumes'):
        for _, the_id, status, _ in sorted(there.values()):
            if the_id in keep or not api.show(kind, the_id):
                continue
            reset = {'status': 'error'}
            if kind == 'volumes':
                reset['attach_status'] = 'detached'
            api.action(kind, the_id, 'os-reset_status', reset)
            if not (api.show(kind, the_id) or {}).get('group_id'):
                api.delete('/%s/%s' % (kind, the_id))
                api.wait(kind, the_id, None)
    for group in api.get('/groups', all_tenants=1)['groups']:
        api.action('groups', group['id'], 'delete', {'delete-volumes': True})
        api.wait('groups', group['id'], None)
    if 'volume-by-hand' in [node['name'] for node in volumes.nodes(BACKEND)]:
        volumes.voltree(BACKEND, 'delete', 'volume-by-hand')  # it was not taken in, and is still its user's
    left = [node['name'] for node in volumes.nodes(BACKEND)
            if not any(the_id in node['name'] for the_id in keep)]
    assert not left, 'left in the store: %s' % left


# --- The calls: how each comes about. Each gets a scratch volume and its snapshot.

@functools.cache
def small_image():
    with tempfile.TemporaryDirectory() as folder:
        return parts_images.upload(parts_images.image_file(folder, 'qcow2', '8M'), 'qcow2')


def make_group():
    kind = parts_groups.group_type('consistent', consistent_group_snapshot_enabled='<is> True')
    group = parts_groups.make_group(kind, BACKEND)
    for _ in range(2):
        create(1, BACKEND, group_id=group)
    return group


def group_snapshot(group):
    return api.post('/group_snapshots', {'group_snapshot': {'group_id': group}})['group_snapshot']['id']


def attach_quietly(volume_id):
    try:
        volumes.Attachment(volume_id)
    except api.Refused:
        pass


class Calls:
    @staticmethod
    def create_volume(one, taken):
        create(1, BACKEND, status=None)

    @staticmethod
    def create_snapshot(one, taken):
        api.post('/snapshots', {'snapshot': {'volume_id': one}})

    @staticmethod
    def create_volume_from_snapshot(one, taken):
        create(2, status=None, snapshot_id=taken)

    @staticmethod
    def create_cloned_volume(one, taken):
        create(2, status=None, source_volid=one)

    @staticmethod
    def extend_volume(one, taken):
        api.action('volumes', one, 'os-extend', {'new_size': 3})

    @staticmethod
    def revert_to_snapshot(one, taken):
        api.action('volumes', one, 'revert', {'snapshot_id': taken})

    @staticmethod
    def delete_snapshot(one, taken):
        api.delete('/snapshots/' + taken)

    @staticmethod
    def delete_volume(one, taken):
        api.delete('/volumes/' + one, cascade=True)

    @staticmethod
    def create_export(one, taken):
        attach_quietly(one)

    @staticmethod
    def initialize_connection(one, taken):
        attach_quietly(one)

    @staticmethod
    def terminate_connection(one, taken):
        attachment = volumes.Attachment(one)
        try:
            attachment.detach()
        except api.Refused:
            pass

    @staticmethod
    def remove_export(one, taken):
        Calls.terminate_connection(one, taken)

    @staticmethod
    def copy_image_to_volume(one, taken):
        create(1, BACKEND, status=None, imageRef=small_image())

    @staticmethod
    def copy_volume_to_image(one, taken):
        api.action('volumes', one, 'os-volume_upload_image', {
            'image_name': 'up', 'disk_format': 'qcow2', 'container_format': 'bare'})

    @staticmethod
    def manage_existing(one, taken):
        volumes.voltree(BACKEND, 'create', 'volume-by-hand', '1G')
        api.post('/manageable_volumes', {'volume': {
            'host': volumes.HOSTS[BACKEND], 'ref': {'source-name': 'volume-by-hand'}, 'volume_type': BACKEND}})

    @staticmethod
    def manage_existing__file(one, taken):
        path = '/srv/images/by-hand.raw'
        with open(path, 'wb') as file:
            file.write(volumes.pattern('by hand'))
            file.truncate(GIB)
        api.post('/manageable_volumes', {'volume': {
            'host': volumes.HOSTS[BACKEND], 'ref': {'source-name': path}, 'volume_type': BACKEND}})

    @staticmethod
    def create_export_snapshot(one, taken):
        api.post('/backups', {'backup': {'volume_id': one, 'snapshot_id': taken, 'force': True, 'name': 'of it'}})

    @staticmethod
    def initialize_connection_snapshot(one, taken):
        Calls.create_export_snapshot(one, taken)

    @staticmethod
    def terminate_connection_snapshot(one, taken):
        Calls.create_export_snapshot(one, taken)

    @staticmethod
    def remove_export_snapshot(one, taken):
        Calls.create_export_snapshot(one, taken)

    @staticmethod
    def delete_group(one, taken):
        api.action('groups', make_group(), 'delete', {'delete-volumes': True})

    @staticmethod
    def retype(one, taken):
        parts_moves.qos_type('crash-slow', BACKEND, 'back-end', total_iops_sec='500')
        api.action('volumes', one, 'os-retype', {'new_type': 'crash-slow', 'migration_policy': 'never'})

    @staticmethod
    def create_group_snapshot(one, taken):
        group_snapshot(make_group())

    @staticmethod
    def create_group_from_src(one, taken):
        api.post('/groups/action', {'create-from-src': {'source_group_id': make_group()}})

    @staticmethod
    def delete_group_snapshot(one, taken):
        made = group_snapshot(make_group())
        api.wait('group_snapshots', made)
        api.delete('/group_snapshots/' + made)


# What is behind two underscores tells two ways to one call apart.
CALLS = [name for name in vars(Calls) if not name.startswith('_')]


@contextlib.contextmanager
def cutting(proxy, call, when, whom):
    """One cut, in what the caller does; the service is there again afterwards."""
    proxy.cut(call, when, kill_daemon if whom == DAEMON else kill_service)
    yield
    assert proxy.done.wait(60), 'nobody called %s' % call
    if whom == SERVICE:
        start(SERVICE)


def cut_each_call(when_and_whom, calls):
    proxy = Proxy.of_us()
    base = create(1, BACKEND)
    volumes.fill(base, 'base')
    kept = snapshot(base)
    keep = (base, kept)
    expected = {'volumes/volume-' + base: 'base', 'snapshots/volume-%s/snapshot-%s' % (base, kept): 'base'}
    for call in calls:
        for when, whom in when_and_whom:
            one = create(1, BACKEND)
            volumes.fill(one, 'scratch')
            taken = snapshot(one)
            ended = threading.Thread(target=getattr(Calls, call), args=(one, taken))
            with cutting(proxy, call.split('__')[0], when, whom):
                ended.start()
            ended.join()
            try:
                settle()
                nothing_lost(expected)
                clean(keep)
                nothing_lost(expected)
            except Exception as error:
                raise AssertionError('%s of %s %s %s' % ('kill -9', whom, when, call)) from error
    api.delete('/volumes/' + base, cascade=True)
    api.wait('volumes', base, None)


def of_us():
    if not hasattr(Proxy, 'ours'):
        Proxy.ours = Proxy()
        start(SERVICE)
        for backend in (BACKEND, SPARE):
            volumes.STORES[backend] = '/var/lib/voltree-' + backend
            volumes.HOSTS[backend] = 'cinder-crash@%s#%s' % (backend, backend)
        volumes.set_up()
        if EITHER not in [one['name'] for one in api.get('/types')['volume_types']]:
            volumes.make_type(EITHER, volume_backend_name='<or> crash <or> spare')
    return Proxy.ours


Proxy.of_us = staticmethod(of_us)


# --- Moves: a volume is in one store or in the other; between the last two steps in both, until it is tried again.

def where_it_is(the_id):
    """The back ends whose stores have the volume."""
    name = volumes.store_name(the_id)
    return [backend for backend in (BACKEND, SPARE)
            if name in [node['name'] for node in volumes.nodes(backend)]]


def migrating(one, force=False):
    api.action('volumes', one, 'os-migrate_volume', {'host': volumes.HOSTS[SPARE], 'force_host_copy': force})


def retyping(one):
    api.action('volumes', one, 'os-retype', {'new_type': SPARE, 'migration_policy': 'on-demand'})


def settled(one):
    """What Cinder says of it once nothing moves any more."""
    last, since = None, time.monotonic()
    while True:
        shown = api.show('volumes', one)
        now = (shown['status'], shown['migration_status'], shown['os-vol-host-attr:host'])
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > (6 if now[1] in ('starting', 'migrating', 'completing') else 1):
            return shown
        time.sleep(0.1)


def arrives(one):
    """When it is tried again; the type may have come with the first try."""
    deadline = time.monotonic() + 180
    while True:
        shown = api.show('volumes', one)
        if shown['os-vol-host-attr:host'] == volumes.HOSTS[SPARE] and shown['status'] == 'available':
            return
        assert shown['migration_status'] != 'error' and time.monotonic() < deadline, (shown, api.messages(one))
        time.sleep(0.2)


def cut_moves(when_and_whom, move, kind):
    """By the driver: copied by the daemon that the volume leaves."""
    proxy = Proxy.of_us()
    for when, whom in when_and_whom:
        place = 'kill -9 of %s %s migrate_volume' % (whom, when)
        one = create(1, BACKEND)
        volumes.fill(one, 'moving')
        if kind != BACKEND:
            parts_moves.retype(one, kind)
        with cutting(proxy, 'migrate_volume', when, whom):
            move(one)
        shown = settled(one)
        there = where_it_is(one)
        assert there, place + ': it is lost'
        host = shown['os-vol-host-attr:host']
        if host != volumes.HOSTS[SPARE]:  # an administrator tries again
            api.action('volumes', one, 'os-reset_status', {'status': 'available', 'migration_status': 'none'})
            move(one)
            arrives(one)
        assert where_it_is(one) == [SPARE], (place, where_it_is(one))
        volumes.holds(one, 'moving')
        volumes.delete(one)
        assert not volumes.nodes(BACKEND) and not volumes.nodes(SPARE), place


def cut_copies(when_and_whom):
    """By the manager, who copies; then the driver there gives the copy the volume's name."""
    proxy = Proxy.of_us()
    for when, whom in when_and_whom:
        place = 'kill -9 of %s %s update_migrated_volume' % (whom, when)
        one = create(1, SPARE)
        volumes.fill(one, 'copied')
        parts_moves.retype(one, EITHER)
        with cutting(proxy, 'update_migrated_volume', when, whom):
            api.action('volumes', one, 'os-migrate_volume', {'host': volumes.HOSTS[BACKEND], 'force_host_copy': True})
        settled(one)
        there = [(backend, node['name']) for backend in (BACKEND, SPARE) for node in volumes.nodes(backend)]
        assert there, place + ': it is lost'
        for backend, name in there:
            volumes.expect('/mnt/%s/volumes/%s' % (backend, name), 'copied')
        for row in api.get('/volumes/detail', all_tenants=1)['volumes']:
            api.action('volumes', row['id'], 'os-reset_status',
                       {'status': 'error', 'attach_status': 'detached', 'migration_status': 'none'})
            api.delete('/volumes/' + row['id'])
            api.wait('volumes', row['id'], None)
        left = [node['name'] for node in volumes.nodes(BACKEND)]
        if (when, whom) == ('after', SERVICE):
            # It has its name, and Cinder died before it could note that: it is found among what can be managed.
            assert left == ['volume-' + one], (place, left)
            delete_by_managing(left[0])
            left = volumes.nodes(BACKEND)
        assert not left and not volumes.nodes(SPARE), '%s: left in the stores: %s' % (place, left)


def delete_by_managing(name):
    found = [entry['reference']['source-name']
             for entry in api.get('/manageable_volumes/detail', host=volumes.HOSTS[BACKEND])['manageable-volumes']]
    assert found == [name], found
    taken_in = api.post('/manageable_volumes', {'volume': {
        'host': volumes.HOSTS[BACKEND], 'ref': {'source-name': name}, 'volume_type': BACKEND}})['volume']['id']
    api.wait('volumes', taken_in)
    volumes.delete(taken_in)


AROUND_THE_DAEMON = [(when, DAEMON) for when in ('before', 'during', 'during', 'after')]
AROUND_THE_SERVICE = [(when, SERVICE) for when in ('before', 'after')]
# Those that take long with a service that is killed: who asked waits for a minute.
SNAPSHOT_CONNECTIONS = [call for call in CALLS if call.endswith('_snapshot') and ('export' in call or 'conn' in call)]
OTHERS = [call for call in CALLS if call not in SNAPSHOT_CONNECTIONS]


def daemon_killed():
    cut_each_call(AROUND_THE_DAEMON, OTHERS)


def service_killed():
    cut_each_call(AROUND_THE_SERVICE, OTHERS)


def killed_in_snapshot_connections():
    cut_each_call(AROUND_THE_DAEMON + AROUND_THE_SERVICE, SNAPSHOT_CONNECTIONS)


def killed_in_moves():
    cut_moves(AROUND_THE_DAEMON + AROUND_THE_SERVICE, migrating, EITHER)


def killed_in_retypes():
    cut_moves(AROUND_THE_DAEMON + AROUND_THE_SERVICE, retyping, BACKEND)


def killed_in_copies():
    cut_copies(AROUND_THE_DAEMON + AROUND_THE_SERVICE)


PARTS = {one.__name__: one for one in (daemon_killed, service_killed, killed_in_snapshot_connections, killed_in_moves,
                                       killed_in_retypes, killed_in_copies)}
