"""Images from and to Glance, and backups."""

import os
import subprocess
import tempfile

import api
import volumes
from volumes import GIB, attached, create, delete, delete_snapshot, expect, fill, holds, snapshot

MIB = 1 << 20


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def image_file(folder, disk_format, size='64M', seed='image'):
    """An image with pattern(seed) at 0 and at its last MiB."""
    raw = os.path.join(folder, 'made.raw')
    path = os.path.join(folder, 'made.' + disk_format)
    run('qemu-img', 'create', '-q', '-f', 'raw', raw, size)
    end = os.path.getsize(raw)
    volumes.write_at(raw, 0, volumes.pattern(seed))
    volumes.write_at(raw, end - MIB, volumes.pattern(seed))
    if disk_format != 'raw':
        run('qemu-img', 'convert', '-f', 'raw', '-O', disk_format, raw, path)
    return path


def upload(path, disk_format):
    with open(path, 'rb') as data:
        return api.image_create(os.path.basename(path), disk_format, data)


def is_image(volume_id, size=64 * MIB, seed='image'):
    with attached(volume_id) as path:
        expect(path, seed)
        expect(path, None, 8 * MIB)
        expect(path, seed, size - MIB)
        expect(path, None, size)
        expect(path, None, volumes.size_of(path) - MIB)


def images_down():
    for disk_format in ('raw', 'qcow2', 'vmdk', 'vdi'):
        with tempfile.TemporaryDirectory() as folder:
            image = upload(image_file(folder, disk_format), disk_format)
        for backend in ('a', 'loop'):
            one = create(2, backend, imageRef=image)
            with attached(one) as path:
                assert volumes.size_of(path) == 2 * GIB
            is_image(one)
            delete(one)
        api.image_delete(image)


def image_of(volume_id, disk_format, force=False):
    made = api.action('volumes', volume_id, 'os-volume_upload_image', {
        'image_name': 'up', 'disk_format': disk_format, 'container_format': 'bare', 'force': force})
    image = made['os-volume_upload_image']['image_id']
    api.image_wait(image)
    return image


def images_up():
    one = create(1)
    fill(one, 'up')
    fill(one, 'up', GIB - MIB)
    for disk_format in ('raw', 'qcow2', 'vmdk'):
        image = image_of(one, disk_format)
        api.wait('volumes', one)
        with tempfile.TemporaryDirectory() as folder:
            path, raw = os.path.join(folder, 'image'), os.path.join(folder, 'raw')
            api.image_download(image, path)
            run('qemu-img', 'convert', '-f', disk_format, '-O', 'raw', path, raw)
            assert os.path.getsize(raw) == GIB
            expect(raw, 'up')
            expect(raw, None, GIB // 2)
            expect(raw, 'up', GIB - MIB)
        back = create(1, imageRef=image)
        holds(back, 'up', GIB - MIB)
        delete(back)
        api.image_delete(image)
    attachment = volumes.Attachment(one)
    image = image_of(one, 'raw', force=True)
    api.wait('volumes', one, 'in-use')
    attachment.detach()
    api.wait('volumes', one)
    api.image_delete(image)
    delete(one)


def image_cache():
    """Back end b keeps an image that was fetched once, and forks it from then on."""
    with tempfile.TemporaryDirectory() as folder:
        image = upload(image_file(folder, 'qcow2'), 'qcow2')
    first = create(1, 'b', imageRef=image)
    second = create(2, 'b', imageRef=image)
    is_image(first)
    is_image(second)
    cached = [one['id'] for one in api.get('/volumes', all_tenants=1)['volumes'] if one['id'] not in (first, second)]
    assert len(cached) == 1, 'the cache holds %s' % cached
    shared = [node['name'] for node in volumes.nodes('b') if node['parent'] is not None]
    assert 'volume-' + second in shared, 'it was fetched again: %s' % shared
    delete(first, second, *cached)
    api.image_delete(image)


def reimage():
    with tempfile.TemporaryDirectory() as folder:
        first = upload(image_file(folder, 'qcow2', '128M', 'first'), 'qcow2')
        second = upload(image_file(folder, 'raw', '32M', 'second'), 'raw')
    one = create(1, imageRef=first)
    is_image(one, 128 * MIB, 'first')
    fill(one, 'more', 512 * MIB)
    kept = snapshot(one)
    api.action('volumes', one, 'os-reimage', {'image_id': second})
    api.wait('volumes', one)
    is_image(one, 32 * MIB, 'second')
    holds(one, None, 127 * MIB)
    holds(one, None, 512 * MIB)
    before = create(1, snapshot_id=kept)
    with attached(before) as path:
        expect(path, 'first')
        expect(path, 'more', 512 * MIB)
    delete_snapshot(kept)
    delete(one, before)
    api.image_delete(first)
    api.image_delete(second)


def hostile(folder):
    """(name, disk_format, path) of images that must not be taken."""
    def path(name):
        return os.path.join(folder, name)

    run('qemu-img', 'create', '-q', '-f', 'raw', path('base'), '64M')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-u', '-b', '/etc/passwd', '-F', 'raw', path('backing'), '64M')
    yield 'backing file', 'qcow2', path('backing')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', path('backing'), '-F', 'qcow2', '-u', path('nested'), '64M')
    yield 'nested chain', 'qcow2', path('nested')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'data_file=%s,data_file_raw=on' % path('outside'),
        path('data_file'), '64M')
    yield 'data file', 'qcow2', path('data_file')
    with open(path('vmdk'), 'w', encoding='ascii') as out:
        out.write('# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n'
                  'createType="monolithicFlat"\n\nRW 131072 FLAT "/etc/passwd" 0\n')
    yield 'external extents', 'vmdk', path('vmdk')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', path('huge'), '64M')
    with open(path('huge'), 'r+b') as out:
        out.seek(24)
        out.write((1 << 62).to_bytes(8, 'big'))
    yield 'a virtual size of 4 EiB', 'qcow2', path('huge')
    run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', image_file(folder, 'raw'), path('cut'))
    os.truncate(path('cut'), 100000)
    yield 'truncated', 'qcow2', path('cut')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', path('refcounts'), '64M')
    with open(path('refcounts'), 'r+b') as out:
        out.seek(56)
        out.write((0xffffffff).to_bytes(4, 'big'))
    yield 'a huge refcount table', 'qcow2', path('refcounts')
    yield 'another format than declared', 'vdi', path('refcounts')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', path('large'), '3G')
    yield 'larger than the volume', 'qcow2', path('large')


def hostile_images():
    with tempfile.TemporaryDirectory() as folder:
        for name, disk_format, path in hostile(folder):
            image = upload(path, disk_format)
            try:
                one = create(1, status=None, imageRef=image)
                api.wait('volumes', one)
            except api.Refused as error:
                assert error.status == 400, error  # Cinder's API saw it itself
            except AssertionError as error:
                assert 'status is error' in str(error), '%s: %s' % (name, error)
                delete(one)
            else:
                raise AssertionError('an image with %s was taken' % name)
            api.image_delete(image)
            # The image is at fault, and not the back end.
            kept = create(1)
            fill(kept, 'kept')
            delete(kept)


def backup(volume_id, **more):
    made = api.post('/backups', {'backup': dict({'volume_id': volume_id, 'name': 'of it'}, **more)})['backup']['id']
    api.wait('backups', made)
    return made


def delete_backup(*ids):
    for the_id in ids:
        api.delete('/backups/' + the_id)
        api.wait('backups', the_id, None)


def backups():
    one = create(1)
    fill(one, 1)
    fill(one, 2, 700 * MIB)
    full = backup(one)
    api.wait('volumes', one)
    fill(one, 3)
    more = backup(one, incremental=True)
    api.wait('volumes', one)
    fill(one, 4)
    restored = api.post('/backups/%s/restore' % more, {'restore': {'volume_id': None, 'name': 'back'}})
    restored = restored['restore']['volume_id']
    api.wait('volumes', restored)
    holds(restored, 3)
    holds(restored, 2, 700 * MIB)
    holds(restored, None, 300 * MIB)
    api.post('/backups/%s/restore' % full, {'restore': {'volume_id': one}})
    api.wait('volumes', one)
    holds(one, 1)
    attachment = volumes.Attachment(one)
    volumes.write_at(attachment.path, 0, volumes.pattern(5))
    used = backup(one, force=True)
    attachment.detach()
    api.wait('volumes', one)
    fill(one, 6)
    api.post('/backups/%s/restore' % used, {'restore': {'volume_id': one}})
    api.wait('volumes', one)
    holds(one, 5)
    taken = snapshot(one)
    fill(one, 7)
    of_snapshot = backup(one, snapshot_id=taken)
    api.wait('snapshots', taken)
    api.post('/backups/%s/restore' % of_snapshot, {'restore': {'volume_id': one}})
    api.wait('volumes', one)
    holds(one, 5)
    delete_snapshot(taken)
    delete_backup(of_snapshot, used, more, full)
    delete(one, restored)


PARTS = {one.__name__: one for one in (images_down, images_up, image_cache, reimage, hostile_images, backups)}
