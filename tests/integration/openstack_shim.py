"""The Python side of the Cinder driver against a real daemon.

Cinder itself is not here: the few names of it that the driver uses stand in for it below. What this
shows is that values, answers and exceptions pass through as they must, not that Cinder is content.
Usage: openstack_shim.py DRIVER-FOLDER CONTROL-SOCKET MOUNTPOINT
"""

import sys
import tempfile
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
              'InvalidReplicationTarget', 'InvalidGroup', 'ManageExistingInvalidReference',
              'ManageExistingAlreadyManaged', 'ManageExistingVolumeTypeMismatch']


class BaseDriver:
    def __init__(self, configuration=None):
        self.configuration = configuration


def option(name, **members):
    return name, members


def stand_in():
    cfg = module('oslo_config.cfg', StrOpt=option, IntOpt=option, ListOpt=option,
                 CONF=Options(host='stor1', volume_name_template='volume-%s'))
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


CONNECTOR = {'host': 'stor1', 'ip': '192.0.2.1', 'multipath': False}


class ShimTest(unittest.TestCase):
    def setUp(self):
        self.driver = shim.VoltreeDriver(configuration=Configuration(
            voltree_socket=SOCKET, voltree_free_min_gb=0, volume_backend_name='back',
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
            self.driver.manage_existing(volume('mine'), reference)
            with open(path, 'rb') as file, open(self.driver.local_path(volume('mine')), 'rb') as disk:
                self.assertEqual(disk.read(5000), file.read())
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

    def test_statistics_are_always_an_answer(self):
        stats = self.driver.get_volume_stats(refresh=True)
        self.assertEqual(stats['volume_backend_name'], 'back')
        self.assertEqual(stats['pools'][0]['backend_state'], 'up')
        self.driver.configuration.values['voltree_socket'] = '/nowhere'
        self.assertEqual(self.driver.get_volume_stats(refresh=True)['backend_state'], 'down')
        with self.assertRaises(exception.VolumeBackendAPIException):
            self.driver.create_volume(volume('disk'))


if __name__ == '__main__':
    FOLDER, SOCKET, MOUNTPOINT = sys.argv[1:4]
    exception = stand_in()
    sys.dont_write_bytecode = True
    sys.path.insert(0, FOLDER)
    import voltree_cinder as shim
    unittest.main(argv=sys.argv[:1])
