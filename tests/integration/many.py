"""Many clients at once: 200 volumes created, snapshotted, cloned and deleted by Cinder's verbs.

Each of 8 processes has a connection to the control socket and volumes of its own; all clone one
image, whose volume and snapshot are deleted while they do. Data goes through the mounted files.
Every client takes its volumes in an order of its own, so that what is under way at once differs
from moment to moment; all volumes, snapshots and clones live at the same time.
Usage: many.py CONTROL-SOCKET
"""

import json
import multiprocessing
import os
import random
import socket
import sys

CLIENTS = 8
VOLUMES = 200
GIB = 1 << 30
# Inside a block, across blocks, and at the end of a volume.
PLACES = [(4096, 8192), (1 << 20, 70_000), (GIB - 5000, 5000)]


class Driver:
    """driver.call over one connection. The exception that a call should end with may be named."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.answers = self.socket.makefile('rb')
        self.last_id = 0

    def method(self, name, **params):
        self.last_id += 1
        request = {'jsonrpc': '2.0', 'id': self.last_id, 'method': name, 'params': params}
        self.socket.sendall(json.dumps(request).encode() + b'\n')
        while True:
            answer = json.loads(self.answers.readline())
            if 'method' in answer:  # progress
                continue
            assert answer['id'] == self.last_id, answer
            assert 'error' not in answer, (name, params, answer)
            return answer['result']

    def call(self, verb, expect=None, **arguments):
        result = self.method('driver.call', call=verb, arguments=arguments,
                             configuration={'free_min_bytes': 0})
        assert result.get('exception') == expect, (verb, arguments, expect, result)
        return result.get('answer')


def volume(name, size=1):
    return {'name': 'volume-' + name, 'id': name, 'size': size}


def snapshot(of, name):
    return {'name': 'snapshot-' + name, 'id': name, 'volume_name': of['name'],
            'volume_size': of['size']}


def content(name, generation, length):
    return random.Random('%s/%s' % (name, generation)).randbytes(length)


def write(driver, of, generation):
    with open(driver.call('local_path', volume=of), 'r+b') as file:
        for offset, length in PLACES:
            file.seek(offset)
            file.write(content(of['name'], generation, length))


def verify(driver, where, of, generation):
    """`where` holds what was written to `of`, and zeros beside it."""
    with open(driver.call('local_path', volume=where), 'rb') as file:
        assert os.fstat(file.fileno()).st_size == where['size'] * GIB, where
        for offset, length in PLACES:
            file.seek(offset - 512)
            got = file.read(512 + length)
            assert got == bytes(512) + content(of['name'], generation, length), (where, offset)
        if where['size'] > 1:
            file.seek(GIB)
            assert file.read(4096) == bytes(4096), where


def client(path, number, image, meetings):
    """What one client does. The others wait at each meeting until all have come."""
    chance = random.Random(number)
    driver = Driver(path)
    mine = [volume('%d-%d' % (number, i)) for i in range(number, VOLUMES, CLIENTS)]
    written = mine[::4]
    # Every second clone is larger than its source.
    children = {one['name']: volume('child-' + one['id'], 1 + i % 2) for i, one in enumerate(mine)}
    taken = {one['name']: snapshot(one, 's-' + one['id']) for one in mine}

    def in_any_order(volumes):
        return chance.sample(volumes, len(volumes))

    for one in mine:
        driver.call('create_volume', volume=one)
        if one in written:
            write(driver, one, 'old')
    meetings.wait()
    from_image = volume('image-%d' % number)
    driver.call('create_volume_from_snapshot', volume=from_image, snapshot=snapshot(image, 'image'))
    for one in in_any_order(mine):
        driver.call('create_snapshot', snapshot=taken[one['name']])
        if one in written:
            write(driver, one, 'new')
    meetings.wait()
    if number == 0:  # the others' clones of it live on
        driver.call('delete_snapshot', snapshot=snapshot(image, 'image'))
        driver.call('delete_volume', volume=image)
    for one in in_any_order(mine):
        child = children[one['name']]
        if chance.random() < 0.5:
            driver.call('create_volume_from_snapshot', volume=child, snapshot=taken[one['name']])
            generation = 'old'
        else:
            driver.call('create_cloned_volume', volume=child, src_vref=one)
            if child['size'] > one['size']:
                driver.call('extend_volume', volume=child, new_size=child['size'])
            generation = 'new'
        if one in written:
            verify(driver, child, one, generation)
    verify(driver, from_image, image, 'only')
    meetings.wait()
    tear_down(driver, in_any_order(mine), taken, children, written)
    verify(driver, from_image, image, 'only')
    driver.call('delete_volume', volume=from_image)


def tear_down(driver, volumes, taken, children, written):
    """The volume, its snapshot and its clone go, each at a time of its own."""
    for i, one in enumerate(volumes):
        driver.call('delete_volume', expect='VolumeIsBusy', volume=one)
        if i % 2:
            driver.call('delete_volume', volume=children.pop(one['name']))
        driver.call('delete_snapshot', snapshot=taken[one['name']])
        if one in written:
            verify(driver, one, one, 'new')
        driver.call('delete_volume', volume=one)
        driver.call('delete_volume', volume=one)  # a manager may ask again
    for child in children.values():
        driver.call('delete_volume', volume=child)


def main(path):
    driver = Driver(path)
    image = volume('image')
    driver.call('create_volume', volume=image)
    write(driver, image, 'only')
    driver.call('create_snapshot', snapshot=snapshot(image, 'image'))
    meetings = multiprocessing.Barrier(CLIENTS, timeout=120)
    clients = [multiprocessing.Process(target=client, args=(path, i, image, meetings))
               for i in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    failed = [i for i, one in enumerate(clients) if one.exitcode != 0]
    assert not failed, 'clients that failed: %s' % failed

    left = driver.method('volume.list', junctions=True)['nodes']
    assert left == [], left
    driver.method('erase.wait')
    pool = driver.method('pool.stats')
    counts = {key: pool[key] for key in ('volumes', 'snapshots', 'layers', 'virtual_bytes',
                                         'allocated_bytes', 'erase_left_bytes')}
    assert not any(counts.values()), counts
    assert pool['counters']['checksum_errors'] == 0, pool['counters']


if __name__ == '__main__':
    main(sys.argv[1])
