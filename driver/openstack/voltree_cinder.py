"""The volume driver of voltree for OpenStack Cinder.

Each call goes to the daemon's control socket as `driver.call` (docs/CONTROL.md) and is answered by
the driver in C++ (driver/store_driver.h): here, Cinder's objects become plain values and the
driver's exceptions Cinder's. Nothing here touches a file of the mounted tree: a call that blocks
there would stop every green thread of the service. Images are files that Cinder's own code fetches
and uploads; the daemon reads and writes them. What the base class does with a volume's path
(backups) runs in processes of their own.
"""

import binascii
import contextlib
import json
import os
import socket
import tempfile
import time

from castellan import key_manager
from eventlet import tpool
from oslo_config import cfg
from oslo_log import log as logging

from cinder import exception
from cinder.image import image_utils
from cinder import interface
from cinder.volume import configuration
from cinder.volume import driver
from cinder.volume import volume_utils

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

voltree_opts = [
    cfg.StrOpt('voltree_socket',
               default='/var/lib/voltree/run/control.sock',
               help='The control socket of the voltree daemon on this host.'),
    cfg.StrOpt('voltree_connection',
               default='file',
               choices=[('file', 'instances use the file in the mounted tree'),
                        ('local', 'instances use a loop device on it')],
               help='How volumes get to the instances of this host.'),
    cfg.IntOpt('voltree_free_min_gb',
               default=1, min=0,
               help='With less free space than this on its host, a store takes nothing new.'),
    cfg.ListOpt('voltree_manage_directories',
                default=[],
                help='Directories on the host of the daemon: raw files below them can be '
                     'managed, by their paths as source-name. None by default.'),
    cfg.BoolOpt('voltree_manage_keeps_files',
                default=False,
                help='A file that is managed is copied and stays where it is. Otherwise it '
                     'becomes the volume itself where it lies on the file system of the store, '
                     'as with the LVM and NFS drivers.'),
    cfg.IntOpt('voltree_call_timeout',
               default=300, min=1,
               help='How many seconds the daemon may be silent during a call. Calls that take '
                    'longer, on images, tell of their progress meanwhile.'),
]

CONF.register_opts(voltree_opts, group=configuration.SHARED_CONF_GROUP)


# The formats that the daemon reads and writes; the others pass through Cinder's own conversion.
_IMAGE_FORMATS = ('raw', 'qcow2', 'vmdk', 'vhdx', 'vdi')


class _Gone(Exception):
    """The daemon closed the connection without an answer."""


@interface.volumedriver
class VoltreeDriver(driver.VolumeDriver):
    """Copy-on-write volumes kept in a directory by a voltree daemon."""

    VERSION = '0.1.0'
    CI_WIKI_NAME = 'voltree_CI'
    SUPPORTS_ACTIVE_ACTIVE = False

    def __init__(self, *args, **kwargs):
        super(VoltreeDriver, self).__init__(*args, **kwargs)
        self.configuration.append_config_values(voltree_opts)
        self._last_stats = None

    @staticmethod
    def get_driver_options():
        return voltree_opts

    # --- The daemon.

    def _backend_name(self):
        return self.configuration.safe_get('volume_backend_name') or 'voltree'

    def _options(self):
        options = {
            'backend_name': self._backend_name(),
            'host_name': CONF.host,
            'connection': self.configuration.voltree_connection,
            'free_min_bytes': self.configuration.voltree_free_min_gb << 30,
            'manage_directories': self.configuration.safe_get('voltree_manage_directories') or [],
            'manage_keeps_files': bool(
                self.configuration.safe_get('voltree_manage_keeps_files')),
            'reserved_percentage': self.configuration.safe_get('reserved_percentage') or 0,
            'max_over_subscription_ratio': str(
                self.configuration.safe_get('max_over_subscription_ratio') or '20.0'),
        }
        # No block of a deleted volume is ever read in another one, whatever this says.
        clear = self.configuration.safe_get('volume_clear')
        if clear:
            options['erase_policy'] = {'none': 'discard'}.get(clear, clear)
        first_mib = self.configuration.safe_get('volume_clear_size')
        if first_mib:
            options['erase_first_bytes'] = first_mib << 20
        priority = self.configuration.safe_get('volume_clear_ionice')
        if priority:
            options['erase_ionice'] = priority
        return options

    @staticmethod
    def _connect(connection, path, seconds):
        deadline = time.monotonic() + seconds
        while True:
            try:
                return connection.connect(path)
            except BlockingIOError:  # so many want to be let in that there is no room to wait
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)

    def _ask(self, request):
        path = self.configuration.voltree_socket
        seconds = self.configuration.voltree_call_timeout
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            # Of each wait for bytes: a long call may take as long as it tells of progress.
            connection.settimeout(seconds)
            self._connect(connection, path, seconds)
            connection.sendall(request)
            with connection.makefile('rb') as answers:
                for line in answers:
                    answer = json.loads(line)
                    if 'id' in answer:
                        return answer
        raise _Gone('the voltree daemon at %s closed the connection' % path)

    def _call(self, name, **arguments):
        request = json.dumps({
            'jsonrpc': '2.0', 'id': 1, 'method': 'driver.call',
            'params': {'call': name, 'arguments': arguments, 'configuration': self._options()},
        }).encode() + b'\n'
        try:
            try:
                answer = self._ask(request)
            except (_Gone, ConnectionError):
                # A crowded daemon, or one that was just restarted. Every call may be repeated.
                answer = self._ask(request)
        except (_Gone, OSError, ValueError) as error:
            raise exception.VolumeBackendAPIException(data='%s: %s' % (name, error))
        if 'error' in answer:
            raise exception.VolumeBackendAPIException(data=answer['error'].get('message'))
        result = answer['result']
        for warning in result.get('warnings', []):
            LOG.warning('%s: %s', name, warning)
        if 'exception' not in result:
            return result['answer']
        LOG.debug('%s: %s: %s', name, result['exception'], result['message'])
        if result['exception'] == 'NotImplementedError':
            raise NotImplementedError(result['message'])
        raise getattr(exception, result['exception'])(message=result['message'])

    # --- Cinder's objects as plain values.

    @staticmethod
    def _volume(volume):
        specs = {}
        qos = {}
        volume_type = getattr(volume, 'volume_type', None)
        # remove_export comes with a row of the database, whose type has rows, too, for its specs;
        # no call that comes so needs to know them.
        if volume_type and not isinstance(volume_type.extra_specs, list):
            specs = dict(volume_type.extra_specs or {})
            if volume_type.qos_specs:
                qos = {'consumer': volume_type.qos_specs.consumer,
                       'specs': dict(volume_type.qos_specs.specs or {})}
        attachments = [VoltreeDriver._attachment(one)
                       for one in (getattr(volume, 'volume_attachment', None) or [])]
        return {'name': volume.name, 'id': volume.id, 'size': volume.size,
                'host': volume.host or '', 'status': volume.status or '',
                'encrypted': bool(volume.encryption_key_id), 'extra_specs': specs,
                'qos_specs': qos, 'attachments': attachments}

    @staticmethod
    def _attachment(attachment):
        return {'attached_host': attachment.attached_host or '',
                'instance_uuid': attachment.instance_uuid or ''}

    @staticmethod
    def _snapshot(snapshot):
        return {'name': snapshot.name, 'id': snapshot.id, 'volume_name': snapshot.volume_name,
                'volume_size': snapshot.volume_size}

    def _volumes(self, volumes):
        return [self._volume(volume) for volume in volumes or []]

    def _snapshots(self, snapshots):
        return [self._snapshot(snapshot) for snapshot in snapshots or []]

    # --- Setting up.

    def do_setup(self, context):
        self._call('do_setup')

    def check_for_setup_error(self):
        self._call('check_for_setup_error')

    def get_volume_stats(self, refresh=False):
        if refresh or not self._last_stats:
            try:
                self._last_stats = self._call('get_volume_stats', refresh=refresh)
            except exception.CinderException as error:
                LOG.warning('No statistics from voltree: %s', error)
                self._last_stats = self._down()
        self._stats = self._last_stats
        return self._last_stats

    def _down(self):
        stats = self._last_stats or {
            'volume_backend_name': self._backend_name(), 'vendor_name': 'voltree',
            'driver_version': self.VERSION, 'storage_protocol': 'file',
            'pools': [{'pool_name': self._backend_name(), 'total_capacity_gb': 0,
                       'free_capacity_gb': 0, 'provisioned_capacity_gb': 0,
                       'allocated_capacity_gb': 0, 'reserved_percentage': 0,
                       'max_over_subscription_ratio': '1.0', 'thin_provisioning_support': True,
                       'thick_provisioning_support': False}]}
        stats = dict(stats, backend_state='down')
        stats['pools'] = [dict(pool, backend_state='down') for pool in stats['pools']]
        return stats

    def get_pool(self, volume):
        return self._backend_name()

    # --- Volumes.

    def create_volume(self, volume):
        return self._call('create_volume', volume=self._volume(volume))

    def delete_volume(self, volume):
        self._call('delete_volume', volume=self._volume(volume))

    def create_volume_from_snapshot(self, volume, snapshot):
        return self._call('create_volume_from_snapshot', volume=self._volume(volume),
                          snapshot=self._snapshot(snapshot))

    def create_cloned_volume(self, volume, src_vref):
        return self._call('create_cloned_volume', volume=self._volume(volume),
                          src_vref=self._volume(src_vref))

    def extend_volume(self, volume, new_size):
        self._call('extend_volume', volume=self._volume(volume), new_size=new_size)

    def local_path(self, volume):
        return self._call('local_path', volume=self._volume(volume))

    # --- Snapshots.

    def create_snapshot(self, snapshot):
        return self._call('create_snapshot', snapshot=self._snapshot(snapshot))

    def delete_snapshot(self, snapshot):
        self._call('delete_snapshot', snapshot=self._snapshot(snapshot))

    def revert_to_snapshot(self, context, volume, snapshot):
        self._call('revert_to_snapshot', volume=self._volume(volume),
                   snapshot=self._snapshot(snapshot))

    def snapshot_revert_use_temp_snapshot(self):
        return False

    # --- Attaching.

    def validate_connector(self, connector):
        self._call('validate_connector', connector=connector)

    def ensure_export(self, context, volume):
        return self._call('ensure_export', volume=self._volume(volume))

    def create_export(self, context, volume, connector=None):
        return self._call('create_export', volume=self._volume(volume), connector=connector)

    def remove_export(self, context, volume):
        self._call('remove_export', volume=self._volume(volume))

    def initialize_connection(self, volume, connector, initiator_data=None):
        return self._call('initialize_connection', volume=self._volume(volume),
                          connector=connector, initiator_data=initiator_data)

    def terminate_connection(self, volume, connector, force=False, **kwargs):
        return self._call('terminate_connection', volume=self._volume(volume),
                          connector=connector, force=bool(force))

    def attach_volume(self, context, volume, instance_uuid, host_name, mountpoint):
        self._call('attach_volume', volume=self._volume(volume), instance_uuid=instance_uuid,
                   host_name=host_name, mountpoint=mountpoint)

    def detach_volume(self, context, volume, attachment=None):
        self._call('detach_volume', volume=self._volume(volume),
                   attachment=self._attachment(attachment) if attachment else None)

    def create_export_snapshot(self, context, snapshot, connector):
        return self._call('create_export_snapshot', snapshot=self._snapshot(snapshot),
                          connector=connector)

    def remove_export_snapshot(self, context, snapshot):
        self._call('remove_export_snapshot', snapshot=self._snapshot(snapshot))

    def initialize_connection_snapshot(self, snapshot, connector, **kwargs):
        return self._call('initialize_connection_snapshot', snapshot=self._snapshot(snapshot),
                          connector=connector)

    def terminate_connection_snapshot(self, snapshot, connector, **kwargs):
        self._call('terminate_connection_snapshot', snapshot=self._snapshot(snapshot),
                   connector=connector)

    # --- Images: files that are fetched and uploaded here, and read and written by the daemon.

    def clone_image(self, *args, **kwargs):
        """(context, volume, image_location, image_meta, image_service), as it is called today, or
        (volume, image_location, image_id, image_metadata, image_service), as older documents have it.
        """
        if args and hasattr(args[0], 'size'):
            kwargs.update(zip(('volume', 'image_location'), args))
        else:
            kwargs.update(zip(('context', 'volume', 'image_location'), args))
        volume, location = kwargs['volume'], kwargs['image_location']
        direct, others = location if location else (None, None)
        urls = [direct] if direct else []
        urls += [one['url'] for one in others or [] if one.get('url') and one['url'] != direct]
        answer = self._call('clone_image', volume=self._volume(volume), locations=urls,
                            volume_name_template=CONF.volume_name_template)
        return answer['model_update'], answer['cloned']

    def copy_image_to_volume(self, context, volume, image_service, image_id,
                             disable_sparse=False):
        with self._fetched(context, volume, image_service, image_id) as (path, disk_format):
            self._fill(volume, image_id, path, disk_format)

    def copy_image_to_encrypted_volume(self, context, volume, image_service, image_id,
                                       disable_sparse=False):
        """The image becomes a LUKS container before it gets to the volume: nothing is mapped."""
        with image_utils.temporary_file(prefix='image_plain_%s_' % image_id) as plain, \
                image_utils.temporary_file(prefix='image_luks_%s_' % image_id) as luks:
            image_utils.fetch_to_raw(context, image_service, image_id, plain,
                                     self.configuration.volume_dd_blocksize, size=volume.size)
            self._encrypt(context, volume, plain, luks)
            self._fill(volume, image_id, luks, 'raw')

    @staticmethod
    def _encrypt(context, volume, plain, luks):
        encryption = volume_utils.check_encryption_provider(volume, context)
        key = key_manager.API(CONF).get(context, encryption['encryption_key_id'])
        with tempfile.NamedTemporaryFile(prefix='luks_', mode='w',
                                         dir=os.path.dirname(luks)) as passphrase:
            passphrase.write(binascii.hexlify(key.get_encoded()).decode('utf-8'))
            passphrase.flush()
            image_utils.convert_image(
                plain, luks, 'luks', src_format='raw', passphrase_file=passphrase.name,
                cipher_spec=image_utils.decode_cipher(encryption['cipher'],
                                                      encryption['key_size']))

    @contextlib.contextmanager
    def _fetched(self, context, volume, image_service, image_id):
        """The image as a file of this host that the daemon can read, and its format."""
        meta = image_service.show(context, image_id)
        disk_format = image_utils.fixup_disk_format(meta['disk_format'])
        native = (disk_format in _IMAGE_FORMATS and meta.get('container_format') != 'compressed')
        if native:
            image_utils.check_image_conversion_disable(meta['disk_format'], 'raw', image_id,
                                                       upload=False)
            held = image_utils.TemporaryImages.for_image_service(image_service)
            path = held.get(context, image_id)
            if path:  # the manager has fetched it already
                yield path, disk_format
                return
        with image_utils.temporary_file(prefix='image_download_%s_' % image_id) as path:
            if native:
                image_utils.fetch_verify_image(context, image_service, image_id, path)
            else:
                disk_format = 'raw'
                image_utils.fetch_to_raw(context, image_service, image_id, path,
                                         self.configuration.volume_dd_blocksize,
                                         size=volume.size)
            yield path, disk_format

    def _fill(self, volume, image_id, path, disk_format):
        try:
            self._call('copy_image_to_volume', volume=self._volume(volume),
                       image={'path': path, 'disk_format': disk_format})
        except exception.ImageUnacceptable as error:
            raise exception.ImageUnacceptable(image_id=image_id, reason=error)

    def copy_volume_to_image(self, context, volume, image_service, image_meta):
        wanted = image_meta['disk_format']
        image_utils.check_image_conversion_disable(wanted, 'raw', image_meta['id'], upload=True)
        native = (wanted in _IMAGE_FORMATS and image_meta.get('container_format') != 'compressed')
        disk_format = wanted if native else 'raw'
        with image_utils.temporary_file(prefix='vol_upload_') as path:
            self._call('copy_volume_to_image', volume=self._volume(volume),
                       image={'path': path, 'disk_format': disk_format,
                              'compress': bool(CONF.image_compress_on_upload)})
            volume_utils.upload_volume(context, image_service, image_meta, path, volume,
                                       volume_format=disk_format)
            # Here, and not where the file is forgotten: giving back much space takes a while.
            tpool.execute(os.truncate, path, 0)

    # --- Taking in and letting go.

    def manage_existing_get_size(self, volume, existing_ref):
        return self._call('manage_existing_get_size', existing_ref=existing_ref)

    def manage_existing(self, volume, existing_ref):
        self._refuse_managed(volume, existing_ref)
        return self._call('manage_existing', volume=self._volume(volume),
                          existing_ref=existing_ref)

    @staticmethod
    def _refuse_managed(volume, existing_ref):
        name = existing_ref.get('source-name') if isinstance(existing_ref, dict) else None
        known = volume_utils.extract_id_from_volume_name(name) if name else None
        if known and volume_utils.check_already_managed_volume(known):
            raise exception.ManageExistingAlreadyManaged(volume_ref=volume.id)

    def unmanage(self, volume):
        self._call('unmanage', volume=self._volume(volume))

    def get_manageable_volumes(self, cinder_volumes, marker, limit, offset, sort_keys, sort_dirs):
        entries = self._call('get_manageable_volumes', limit=1 << 31)
        known = {volume['name']: volume['id'] for volume in cinder_volumes}
        for entry in entries:
            self._tell_managed(entry, known.get(entry['reference']['source-name']))
        return volume_utils.paginate_entries_list(entries, marker, limit, offset, sort_keys,
                                                  sort_dirs)

    @staticmethod
    def _tell_managed(entry, cinder_id):
        if cinder_id:
            entry.update(cinder_id=cinder_id, safe_to_manage=False,
                         reason_not_safe='already managed')

    def manage_existing_snapshot_get_size(self, snapshot, existing_ref):
        return self._call('manage_existing_snapshot_get_size', snapshot=self._snapshot(snapshot),
                          existing_ref=existing_ref)

    def manage_existing_snapshot(self, snapshot, existing_ref):
        return self._call('manage_existing_snapshot', snapshot=self._snapshot(snapshot),
                          existing_ref=existing_ref)

    def unmanage_snapshot(self, snapshot):
        self._call('unmanage_snapshot', snapshot=self._snapshot(snapshot))

    def get_manageable_snapshots(self, cinder_snapshots, marker, limit, offset, sort_keys,
                                 sort_dirs):
        entries = self._call('get_manageable_snapshots', limit=1 << 31)
        known = {(snapshot['volume_name'], snapshot['name']): snapshot['id']
                 for snapshot in cinder_snapshots}
        for entry in entries:
            key = (entry['source_reference']['source-name'], entry['reference']['source-name'])
            self._tell_managed(entry, known.get(key))
        return volume_utils.paginate_entries_list(entries, marker, limit, offset, sort_keys,
                                                  sort_dirs)

    # --- Groups. Those whose snapshots need not be consistent are the manager's.

    def _group_call(self, name, group, consistent=None, **arguments):
        if consistent is None:
            consistent = volume_utils.is_group_a_cg_snapshot_type(group)
        if not consistent:
            raise NotImplementedError()
        return self._call(name, group={'id': group.id, 'consistent_group_snapshot': True},
                          **arguments)

    @staticmethod
    def _pair(answer):
        return answer['model_update'], answer['members']

    def create_group(self, context, group, consistent=None):
        return self._group_call('create_group', group, consistent)

    def delete_group(self, context, group, volumes, consistent=None):
        return self._pair(self._group_call('delete_group', group, consistent,
                                           volumes=self._volumes(volumes)))

    def update_group(self, context, group, add_volumes=None, remove_volumes=None,
                     consistent=None):
        self._group_call('update_group', group, consistent,
                         add_volumes=self._volumes(add_volumes),
                         remove_volumes=self._volumes(remove_volumes))
        return None, None, None

    def create_group_from_src(self, context, group, volumes, group_snapshot=None, snapshots=None,
                              source_group=None, source_vols=None, consistent=None):
        return self._pair(self._group_call('create_group_from_src', group, consistent,
                                           volumes=self._volumes(volumes),
                                           snapshots=self._snapshots(snapshots),
                                           source_vols=self._volumes(source_vols)))

    def create_group_snapshot(self, context, group_snapshot, snapshots, consistent=None):
        return self._pair(self._group_call('create_group_snapshot', group_snapshot, consistent,
                                           snapshots=self._snapshots(snapshots)))

    def delete_group_snapshot(self, context, group_snapshot, snapshots, consistent=None):
        return self._pair(self._group_call('delete_group_snapshot', group_snapshot, consistent,
                                           snapshots=self._snapshots(snapshots)))

    def create_consistencygroup(self, context, group):
        return self.create_group(context, group, consistent=True)

    def delete_consistencygroup(self, context, group, volumes):
        return self.delete_group(context, group, volumes, consistent=True)

    def update_consistencygroup(self, context, group, add_volumes=None, remove_volumes=None):
        return self.update_group(context, group, add_volumes, remove_volumes, consistent=True)

    def create_consistencygroup_from_src(self, context, group, volumes, cgsnapshot=None,
                                         snapshots=None, source_cg=None, source_vols=None):
        return self.create_group_from_src(context, group, volumes, cgsnapshot, snapshots,
                                          source_cg, source_vols, consistent=True)

    def create_cgsnapshot(self, context, cgsnapshot, snapshots):
        return self.create_group_snapshot(context, cgsnapshot, snapshots, consistent=True)

    def delete_cgsnapshot(self, context, cgsnapshot, snapshots):
        return self.delete_group_snapshot(context, cgsnapshot, snapshots, consistent=True)

    # --- Moving, and the rest.

    def retype(self, context, volume, new_type, diff, host):
        wanted = {'name': new_type['name'], 'extra_specs': new_type.get('extra_specs') or {}}
        return self._call('retype', volume=self._volume(volume), new_type=wanted, diff=diff,
                          host=host.get('host', '') if host else '')

    def migrate_volume(self, context, volume, host):
        target = host.get('capabilities', {}).get('location_info') or ''
        answer = self._call('migrate_volume', volume=self._volume(volume),
                            host=host.get('host', ''), location_info=target)
        return answer['moved'], answer['model_update']

    def update_migrated_volume(self, ctxt, volume, new_volume, original_volume_status):
        return self._call('update_migrated_volume', volume=self._volume(volume),
                          new_volume=self._volume(new_volume),
                          original_volume_name=CONF.volume_name_template % volume.id,
                          original_volume_status=original_volume_status)

    def accept_transfer(self, context, volume, new_user, new_project):
        self._call('accept_transfer', volume=self._volume(volume), new_user=new_user,
                   new_project=new_project)

    def failover_host(self, context, volumes, secondary_id=None, groups=None):
        self._call('failover_host', secondary_id=secondary_id or '')
        return secondary_id, [], []
