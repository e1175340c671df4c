"""The Python side of the Cinder driver against a real daemon.

Cinder itself is not here: the few names of it that the driver uses stand in for it below. What this
shows is that values, answers and exceptions pass through as they must, not that Cinder is content.
Usage: openstack_shim.py DRIVER-FOLDER CONTROL-SOCKET MOUNTPOINT FOLDER-FOR-IMAGES SLOW-IMAGE
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import types
import unittest


def module(name, **members):
    made = types.ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made
    return made


class Options(dict):
    __getattr__ = dict.get

    def register_opts(self, opts, group=None):
        pass


class Configuration:
    def __init__(self, **values):
        self.values = values

    def append_config_values(self, opts):
        for name, option in opts:
            self.values.setdefault(name, option.get('default'))

    def safe_get(self, name):
        return self.values.get(name)

    def __getattr__(self, name):
        return self.values[name]


class CinderException(Exception):
    def __init__(self, message=None, **kwargs):
        super().__init__(message or str(kwargs))


EXCEPTIONS = ['VolumeBackendAPIException', 'VolumeIsBusy', 'SnapshotIsBusy', 'VolumeNotFound',
              'SnapshotNotFound', 'InvalidInput', 'InvalidConnectorException',
              'InvalidReplicationTarget', 'InvalidGroup', 'ImageUnacceptable', 'ManageExistingInvalidReference',
              'ManageExistingAlreadyManaged', 'ManageExistingVolumeTypeMismatch']


class BaseDriver:
    def __init__(self, configuration=None):
        self.configuration = configuration


def option(name, **members):
    return name, members


class ImageService:
    """Glance, with its images in memory: {id: (path, disk_format)}."""

    def __init__(self, **images):
        self.images = images
        self.fetched = []

    def show(self, context, image_id):
        return {'id': image_id, 'disk_format': self.images[image_id][1]}


class TemporaryImages:
    """Those that the manager has fetched already."""
    held = {}

    @classmethod
    def for_image_service(cls, image_service):
        return cls

    @classmethod
    def get(cls, context, image_id):
        return cls.held.get(image_id)


@contextlib.contextmanager
def temporary_file(prefix=''):
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        path = os.path.join(folder, 'image')
        open(path, 'wb').close()
        yield path


def fetch_verify_image(context, image_service, image_id, path):
    image_service.fetched.append(image_id)
    shutil.copy(image_service.images[image_id][0], path)


def fetch_to_raw(context, image_service, image_id, path, blocksize, size=None):
    image_service.fetched.append(image_id)
    source, disk_format = image_service.images[image_id]
    subprocess.run(['qemu-img', 'convert', '-f', disk_format, '-O', 'raw', source, path], check=True)


def convert_image(source, target, out_format, src_format=None, cipher_spec=None,
                  passphrase_file=None):
    command = ['qemu-img', 'convert', '-f', src_format, '-O', out_format,
               '--object', 'secret,id=key,format=raw,file=' + passphrase_file,
               '-o', 'key-secret=key,cipher-alg=%s' % cipher_spec['cipher_alg'], source, target]
    while True:
        ended = subprocess.run(command, capture_output=True, text=True)
        # QEMU times its key derivation first, and gives up where the kernel counts processor time
        # in ticks and none has passed.
        if 'Unable to get accurate CPU usage' not in ended.stderr:
            break
    assert ended.returncode == 0, ended.stderr


def upload_volume(context, image_service, image_meta, path, volume, volume_format='raw'):
    kept = os.path.join(WORK, image_meta['id'])
    shutil.copy(path, kept)
    image_service.images[image_meta['id']] = (kept, volume_format)


def stand_in_for_images():
    key = types.SimpleNamespace(get_encoded=lambda: b'0123456789abcdef')
    manager = types.SimpleNamespace(API=lambda conf: types.SimpleNamespace(get=lambda *a: key))
    module('castellan', key_manager=manager)
    tpool = types.SimpleNamespace(execute=lambda call, *arguments: call(*arguments))
    module('eventlet', tpool=tpool)
    utils = module('cinder.image.image_utils', TemporaryImages=TemporaryImages,
                   temporary_file=temporary_file, fetch_verify_image=fetch_verify_image,
                   fetch_to_raw=fetch_to_raw, convert_image=convert_image,
                   fixup_disk_format=lambda name: {'vhd': 'vpc', 'iso': 'raw'}.get(name, name),
                   check_image_conversion_disable=lambda *a, **k: None,
                   decode_cipher=lambda cipher, size: {'cipher_alg': 'aes-256'})
    module('cinder.image', image_utils=utils)


def stand_in():
    stand_in_for_images()
    cfg = module('oslo_config.cfg', StrOpt=option, IntOpt=option, ListOpt=option, BoolOpt=option,
                 CONF=Options(host='stor1', volume_name_template='volume-%s',
                              image_compress_on_upload=True))
    module('oslo_config', cfg=cfg)
    quiet = types.SimpleNamespace(debug=lambda *a: None, warning=lambda *a: None)
    log = module('oslo_log.log', getLogger=lambda name: quiet)
    module('oslo_log', log=log)
    exceptions = {name: type(name, (CinderException,), {}) for name in EXCEPTIONS}
    exception = module('cinder.exception', CinderException=CinderException, **exceptions)
    interface = module('cinder.interface', volumedriver=lambda cls: cls)
    configuration = module('cinder.volume.configuration', SHARED_CONF_GROUP='backend_defaults')
    driver = module('cinder.volume.driver', VolumeDriver=BaseDriver)
    utils = module('cinder.volume.volume_utils',
                   is_group_a_cg_snapshot_type=lambda group: group.consistent,
                   extract_id_from_volume_name=lambda name: None,
                   check_already_managed_volume=lambda volume_id: False,
                   upload_volume=upload_volume,
                   check_encryption_provider=lambda volume, context: {
                       'encryption_key_id': 'key', 'cipher': 'aes-xts-plain64', 'key_size': 256},
                   paginate_entries_list=lambda entries, marker, limit, *rest: entries[:limit])
    module('cinder', exception=exception, interface=interface)
    module('cinder.volume', configuration=configuration, driver=driver, volume_utils=utils)
    return exception


def volume(name, size=1, attachments=()):
    return types.SimpleNamespace(
        id=name, name='volume-' + name, size=size, host='stor1@back#pool', status='available',
        encryption_key_id=None, volume_type=None,
        volume_attachment=[types.SimpleNamespace(attached_host=host, instance_uuid=None)
                           for host in attachments])


def snapshot(of, name):
    return types.SimpleNamespace(id=name, name='snapshot-' + name, volume_name=of.name,
                                 volume_size=of.size)


def file_of(one):
    return MOUNTPOINT + '/volumes/' + one.name


def read_file(path, offset, length):
    with open(path, 'rb') as file:
        file.seek(offset)
        return file.read(length)


def long_request(name, image):
    return json.dumps({
        'jsonrpc': '2.0', 'id': 1, 'method': 'driver.call',
        'params': {'call': 'copy_image_to_volume',
                   'arguments': {'volume': {'name': name, 'size': 1},
                                 'image': {'path': image, 'disk_format': 'raw'}}}}).encode() + b'\n'


def connect():
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(SOCKET)  # waits for room in a queue that is full
    connection.settimeout(60)
    return connection


CONNECTOR = {'host': 'stor1', 'ip': '192.0.2.1', 'multipath': False}


class ShimTest(unittest.TestCase):
    def setUp(self):
        self.driver = shim.VoltreeDriver(configuration=Configuration(
            voltree_socket=SOCKET, voltree_free_min_gb=0, volume_backend_name='back',
            volume_dd_blocksize='1M',
            reserved_percentage=0, max_over_subscription_ratio='20.0', volume_clear='zero'))
        self.driver.do_setup(None)
        self.driver.check_for_setup_error()

    def test_life_of_a_volume(self):
        disk = volume('disk')
        self.assertIsNone(self.driver.create_volume(disk))
        self.assertIsNone(self.driver.create_snapshot(snapshot(disk, 's')))
        with self.assertRaises(exception.VolumeIsBusy):
            self.driver.delete_volume(disk)
        self.driver.create_volume_from_snapshot(volume('child', 2), snapshot(disk, 's'))
        self.driver.create_cloned_volume(volume('twin', 1), disk)
        self.driver.extend_volume(disk, 3)
        with self.assertRaises(exception.InvalidInput):
            self.driver.extend_volume(disk, 1)
        self.driver.delete_snapshot(snapshot(disk, 's'))
        with self.assertRaises(exception.SnapshotNotFound):
            self.driver.revert_to_snapshot(None, disk, snapshot(disk, 's'))
        for one in (disk, volume('child'), volume('twin'), disk):
            self.driver.delete_volume(one)

    def test_clearing_less(self):
        configuration = self.driver.configuration.values
        configuration.update(volume_clear_size=1, volume_clear_ionice='-c2 -n7')
        self.driver.create_volume(volume('disk'))
        self.driver.delete_volume(volume('disk'))
        for priority in ('-c1', '-c2 -n8', 'idle; true'):
            configuration['volume_clear_ionice'] = priority
            with self.assertRaisesRegex(exception.VolumeBackendAPIException, 'volume_clear_ionice'):
                self.driver.check_for_setup_error()

    def test_attaching(self):
        disk = volume('disk', attachments=['stor1', 'stor1'])
        self.driver.create_volume(disk)
        with self.assertRaises(exception.InvalidConnectorException):
            self.driver.validate_connector({})
        self.driver.create_export(None, disk, CONNECTOR)
        info = self.driver.initialize_connection(disk, CONNECTOR)
        self.assertEqual(info['driver_volume_type'], 'gpfs')
        self.assertEqual(info['data']['device_path'], MOUNTPOINT + '/volumes/volume-disk')
        with open(info['data']['device_path'], 'rb') as file:
            self.assertEqual(file.read(512), bytes(512))
        self.assertEqual(self.driver.local_path(disk), info['data']['device_path'])
        self.assertIs(self.driver.terminate_connection(disk, CONNECTOR, force=False), True)
        disk.volume_attachment.pop()
        self.assertIs(self.driver.terminate_connection(disk, CONNECTOR, force=False), False)
        self.driver.remove_export(None, disk)
        self.driver.delete_volume(disk)

    def test_taking_in(self):
        disk = volume('disk')
        self.driver.create_volume(disk)
        entries = self.driver.get_manageable_volumes([], None, 10, 0, ['size'], ['asc'])
        self.assertEqual([entry['reference'] for entry in entries],
                         [{'source-name': 'volume-disk'}])
        known = self.driver.get_manageable_volumes([{'name': 'volume-disk', 'id': 'disk'}], None,
                                                   10, 0, ['size'], ['asc'])
        self.assertEqual(known[0]['cinder_id'], 'disk')
        self.assertEqual(self.driver.manage_existing_get_size(None, entries[0]['reference']), 1)
        with self.assertRaises(exception.ManageExistingInvalidReference):
            self.driver.manage_existing_get_size(None, {'source-name': 'nothing'})
        self.driver.manage_existing(volume('mine'), entries[0]['reference'])
        self.driver.delete_volume(volume('mine'))

    def test_taking_in_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = folder + '/disk.raw'
            with open(path, 'wb') as file:
                file.write(b'first' * 1000)
            reference = {'source-name': path}
            with self.assertRaises(exception.ManageExistingInvalidReference):
                self.driver.manage_existing_get_size(None, reference)
            self.driver.configuration.values['voltree_manage_directories'] = [folder]
            self.assertEqual(self.driver.manage_existing_get_size(None, reference), 1)
            self.driver.configuration.values['voltree_manage_keeps_files'] = True
            self.driver.manage_existing(volume('mine'), reference)
            with open(path, 'rb') as file, open(self.driver.local_path(volume('mine')), 'rb') as disk:
                self.assertEqual(disk.read(5000), file.read())
            self.driver.delete_volume(volume('mine'))
            # It becomes the volume itself, where its file system is the store's.
            self.driver.configuration.values['voltree_manage_keeps_files'] = False
            self.driver.manage_existing(volume('mine'), reference)
            with open(self.driver.local_path(volume('mine')), 'rb') as disk:
                self.assertEqual(disk.read(5000), b'first' * 1000)
            self.driver.delete_volume(volume('mine'))

    def test_groups(self):
        group = types.SimpleNamespace(id='group', consistent=True)
        loose = types.SimpleNamespace(id='loose', consistent=False)
        with self.assertRaises(NotImplementedError):
            self.driver.create_group(None, loose)
        self.assertEqual(self.driver.create_group(None, group), {'status': 'available'})
        members = [volume('one'), volume('two')]
        for member in members:
            self.driver.create_volume(member)
        snapshots = [snapshot(member, 'both') for member in members]
        update, each = self.driver.create_cgsnapshot(None, group, snapshots)
        self.assertEqual(update, {'status': 'available'})
        self.assertEqual([one['id'] for one in each], ['both', 'both'])
        self.driver.delete_group_snapshot(None, group, snapshots)
        update, each = self.driver.delete_group(None, group, members)
        self.assertEqual(update, {'status': 'deleted'})

    def test_images_and_moves(self):
        disk = volume('disk')
        self.driver.create_volume(disk)
        location = (None, [{'url': 'cinder://disk'}])
        self.assertEqual(self.driver.clone_image(None, volume('new'), location, {}, None),
                         (None, True))
        self.assertEqual(self.driver.clone_image(volume('other'), ('http://a/b', []), 'id', {}, 0),
                         (None, False))
        moved, _ = self.driver.migrate_volume(None, disk, {'host': 'x', 'capabilities': {}})
        self.assertFalse(moved)
        self.assertTrue(self.driver.retype(None, disk, {'name': 't'}, {'qos_specs': {}}, None))
        self.assertEqual(self.driver.update_migrated_volume(None, volume('origin'), volume('new'),
                                                            'available')['_name_id'], None)
        with self.assertRaises(exception.InvalidReplicationTarget):
            self.driver.failover_host(None, [], 'second')
        for one in (disk, volume('origin')):
            self.driver.delete_volume(one)

    def image(self, name, disk_format='raw', size=8 << 20):
        path = os.path.join(WORK, name)
        raw = path + '.raw' if disk_format != 'raw' else path
        with open(raw, 'wb') as file:
            file.write(b'i' * 100000)
            file.truncate(size)
        if raw != path:
            subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', disk_format, raw, path],
                           check=True)
        return path

    def test_images_in(self):
        disk = volume('disk')
        self.driver.create_volume(disk)
        glance = ImageService(raw=(self.image('raw'), 'raw'), vpc=(self.image('vpc', 'vpc'), 'vpc'),
                              qcow2=(self.image('qcow2', 'qcow2'), 'qcow2'),
                              liar=(self.image('liar', 'qcow2'), 'raw'),
                              large=(self.image('large', 'qcow2', 2 << 30), 'qcow2'))
        for name in ('raw', 'qcow2', 'vpc'):
            with open(file_of(disk), 'r+b') as file:
                file.write(b'o' * (16 << 20))
            self.driver.copy_image_to_volume(None, disk, glance, name)
            self.assertEqual(read_file(file_of(disk), 99999, 2), b'i\0', name)
            self.assertEqual(read_file(file_of(disk), 9 << 20, 4096), bytes(4096), name)
            self.assertEqual(os.stat(file_of(disk)).st_size, 1 << 30)
        self.assertEqual(glance.fetched, ['raw', 'qcow2', 'vpc'])
        TemporaryImages.held['raw'] = glance.images['raw'][0]
        self.driver.copy_image_to_volume(None, disk, glance, 'raw')
        self.assertEqual(len(glance.fetched), 3, 'it was there already')
        for name in ('liar', 'large'):
            with self.assertRaises(exception.ImageUnacceptable):
                self.driver.copy_image_to_volume(None, disk, glance, name)
        self.assertEqual(read_file(file_of(disk), 0, 2), b'ii')
        self.driver.delete_volume(disk)

    def test_images_out(self):
        disk = volume('disk')
        disk.volume_type = types.SimpleNamespace(extra_specs={}, qos_specs=None)
        self.driver.create_volume(disk)
        with open(file_of(disk), 'r+b') as file:
            file.write(b'd' * 100000)
            file.flush()
            glance = ImageService()
            for name in ('raw', 'qcow2', 'vhd'):  # while somebody has it open
                self.driver.copy_volume_to_image(None, disk, glance,
                                                 {'id': name, 'disk_format': name})
        self.assertEqual([glance.images[name][1] for name in ('raw', 'qcow2', 'vhd')],
                         ['raw', 'qcow2', 'raw'])
        for path, disk_format in glance.images.values():
            subprocess.run(['qemu-img', 'compare', '-q', '-f', disk_format, '-F', 'raw', path,
                            file_of(disk)], check=True)
        self.driver.delete_volume(disk)

    def test_files_that_are_volumes_are_no_images(self):
        disk = volume('disk')
        self.driver.create_volume(disk)
        glance = ImageService(mine=(file_of(disk), 'raw'))
        TemporaryImages.held['mine'] = file_of(disk)
        with self.assertRaises(exception.InvalidInput):
            self.driver.copy_image_to_volume(None, disk, glance, 'mine')
        self.driver.delete_volume(disk)

    def test_an_encrypted_volume(self):
        disk = volume('disk')
        self.driver.create_volume(disk)
        glance = ImageService(plain=(self.image('plain'), 'raw'))
        self.driver.copy_image_to_encrypted_volume(None, disk, glance, 'plain')
        self.assertEqual(read_file(file_of(disk), 0, 6), b'LUKS\xba\xbe')
        self.assertFalse(os.path.islink(file_of(disk)))
        with tempfile.NamedTemporaryFile(mode='w') as key:
            key.write(b'0123456789abcdef'.hex())
            key.flush()
            opened = 'driver=luks,key-secret=key,file.filename=' + file_of(disk)
            plain = os.path.join(WORK, 'opened')
            subprocess.run(['qemu-img', 'convert', '--object',
                            'secret,id=key,format=raw,file=' + key.name, '--image-opts', opened,
                            '-O', 'raw', plain], check=True)
        self.assertEqual(read_file(plain, 99999, 2), b'i\0')
        self.driver.delete_volume(disk)

    def start_long_call(self):
        """A call that takes half a minute, by the pace at which its image can be read."""
        disk = volume('disk')
        self.driver.create_volume(disk)
        with open(file_of(disk), 'r+b') as file:
            file.write(b'o' * 4096)
        connection = connect()
        connection.sendall(long_request(disk.name, SLOW_IMAGE))
        lines = connection.makefile()
        self.assertEqual(json.loads(lines.readline())['method'], 'progress')
        return disk, connection, lines

    def unfinished(self):
        return [entry for entry in self.driver.get_manageable_volumes([], None, 10, 0, [], [])
                if '.import-' in entry['reference']['source-name']]

    def end_long_call(self, disk, connection, lines):
        """Nobody waits for it any more: it undoes what it has done, and ends."""
        lines.close()
        connection.close()
        deadline = time.monotonic() + 60
        while self.unfinished() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(self.unfinished(), [])
        self.assertEqual(read_file(file_of(disk), 0, 2), b'oo')
        self.driver.delete_volume(disk)

    def test_a_long_call_is_in_nobodys_way(self):
        disk, connection, lines = self.start_long_call()
        self.driver.create_snapshot(snapshot(disk, 's'))
        self.assertEqual(len(self.unfinished()), 1)
        self.driver.delete_snapshot(snapshot(disk, 's'))
        self.end_long_call(disk, connection, lines)

    def test_a_long_call_stays_when_it_gets_crowded(self):
        disk, connection, lines = self.start_long_call()
        with contextlib.ExitStack() as crowd:
            for _ in range(130):  # each beyond the limit sends an idle one away
                crowd.enter_context(connect())
            self.driver.check_for_setup_error()
            for _ in range(3):
                self.assertEqual(json.loads(lines.readline())['method'], 'progress')
        self.end_long_call(disk, connection, lines)

    def test_statistics_are_always_an_answer(self):
        stats = self.driver.get_volume_stats(refresh=True)
        self.assertEqual(stats['volume_backend_name'], 'back')
        self.assertEqual(stats['pools'][0]['backend_state'], 'up')
        self.driver.configuration.values['voltree_socket'] = '/nowhere'
        self.assertEqual(self.driver.get_volume_stats(refresh=True)['backend_state'], 'down')
        with self.assertRaises(exception.VolumeBackendAPIException):
            self.driver.create_volume(volume('disk'))


if __name__ == '__main__':
    FOLDER, SOCKET, MOUNTPOINT, WORK, SLOW_IMAGE = sys.argv[1:6]
    exception = stand_in()
    sys.dont_write_bytecode = True
    sys.path.insert(0, FOLDER)
    import voltree_cinder as shim
    unittest.main(argv=sys.argv[:1])
