"""Volumes, snapshots, clones, extending, attaching, revert, cascades."""

import concurrent.futures
import os

import api
import volumes
from volumes import GIB, attached, create, delete, delete_snapshot, expect, fill, holds, snapshot


def attach():
    for backend in volumes.STORES:
        one = create(1, backend)
        with attached(one) as path:
            assert volumes.size_of(path) == GIB, path
            expect(path, None, GIB - (1 << 20))
            volumes.write_at(path, 0, volumes.pattern(1))
            volumes.write_at(path, GIB - (1 << 20), volumes.pattern(2))
            assert api.show('volumes', one)['status'] == 'in-use'
        with attached(one) as path:
            expect(path, 1)
            expect(path, 2, GIB - (1 << 20))
            expect(path, None, GIB // 2)
        delete(one)


def read_only():
    one = create(1, 'loop')
    fill(one, 3)
    with attached(one, mode='ro') as path:
        expect(path, 3)
        try:
            volumes.write_at(path, 0, volumes.pattern(4))
        except OSError:
            pass
        else:
            raise AssertionError('what was attached read-only was written to')
    holds(one, 3)
    delete(one)


def multi_attach():
    one = create(1, 'multi')
    first, second = volumes.Attachment(one), volumes.Attachment(one)
    assert len(api.show('volumes', one)['attachments']) == 2
    volumes.write_at(first.path, 0, volumes.pattern(5))
    expect(second.path, 5)
    first.detach()
    assert api.show('volumes', one)['status'] == 'in-use'
    expect(second.path, 5)  # the export stays for who remains
    volumes.write_at(second.path, 0, volumes.pattern(6))
    second.detach()
    api.wait('volumes', one)
    holds(one, 6)
    delete(one)


def snapshots():
    one = create(1)
    fill(one, 1)
    first = snapshot(one)
    fill(one, 2)
    attachment = volumes.Attachment(one)
    volumes.write_at(attachment.path, 1 << 20, volumes.pattern(3))
    second = snapshot(one)  # in use
    volumes.write_at(attachment.path, 1 << 20, volumes.pattern(4))
    attachment.detach()
    api.wait('volumes', one)
    from_first = create(1, snapshot_id=first)
    from_second = create(3, snapshot_id=second)
    holds(from_first, 1)
    holds(from_first, None, 1 << 20)
    holds(from_second, 2)
    holds(from_second, 3, 1 << 20)
    with attached(from_second) as path:
        assert volumes.size_of(path) == 3 * GIB
        expect(path, None, 2 * GIB)
    try:
        api.delete('/volumes/' + one)
    except api.Refused as error:
        assert error.status == 400
    else:
        raise AssertionError('a volume with snapshots was deleted')
    delete_snapshot(first, second)  # while volumes made from them live
    holds(from_first, 1)
    delete(one)
    holds(from_second, 3, 1 << 20)
    delete(from_first, from_second)


def clone_chain():
    chain = [create(1)]
    fill(chain[0], 0)
    for generation in range(1, 8):
        chain.append(create(1 + generation // 4, source_volid=chain[-1]))
        fill(chain[-1], generation, generation << 20)
    for generation, one in enumerate(chain):
        with attached(one) as path:
            for older in range(generation + 1):
                expect(path, older, older << 20)
            expect(path, None, (generation + 1) << 20)
    delete(*chain[::2])
    holds(chain[7], 4, 4 << 20)
    delete(*chain[1::2])


def extend():
    for backend in ('a', 'loop'):
        one = create(1, backend)
        fill(one, 1, GIB - (1 << 20))
        api.action('volumes', one, 'os-extend', {'new_size': 2})
        assert api.wait('volumes', one)['size'] == 2
        attachment = volumes.Attachment(one)
        volumes.write_at(attachment.path, GIB, volumes.pattern(2))
        api.action('volumes', one, 'os-extend', {'new_size': 4})
        assert api.wait('volumes', one, 'in-use')['size'] == 4
        assert volumes.size_of(attachment.path) == 4 * GIB
        expect(attachment.path, 1, GIB - (1 << 20))
        expect(attachment.path, 2, GIB)
        expect(attachment.path, None, 4 * GIB - (1 << 20))
        attachment.detach()
        api.wait('volumes', one)
        delete(one)


def revert():
    one = create(1)
    fill(one, 1)
    kept = snapshot(one)
    fill(one, 2)
    fill(one, 2, 8 << 20)
    api.action('volumes', one, 'revert', {'snapshot_id': kept})
    api.wait('volumes', one)
    holds(one, 1)
    holds(one, None, 8 << 20)
    api.wait('snapshots', kept)
    fill(one, 3)
    api.action('volumes', one, 'revert', {'snapshot_id': kept})
    api.wait('volumes', one)
    holds(one, 1)
    delete_snapshot(kept)
    delete(one)


def cascade():
    one = create(1)
    for generation in range(4):
        fill(one, generation)
        snapshot(one)
    api.delete('/volumes/' + one, cascade=True)
    api.wait('volumes', one, None)


def nothing_shows_through():
    """What a deleted volume held is in no later one."""
    one = create(1)
    with attached(one) as path:
        for piece in range(32):
            volumes.write_at(path, piece << 20, volumes.pattern('secret'))
    delete(one)
    two = create(1)
    with attached(two) as path:
        for piece in range(32):
            expect(path, None, piece << 20)
    delete(two)


def life_of_a_client(number):
    """What one of eight does at once."""
    one = create(1)
    fill(one, number)
    taken = snapshot(one)
    fill(one, number + 100)
    clone = create(1, source_volid=one)
    restored = create(2, snapshot_id=taken)
    holds(clone, number + 100)
    holds(restored, number)
    api.action('volumes', clone, 'os-extend', {'new_size': 2})
    api.wait('volumes', clone)
    delete_snapshot(taken)
    delete(one, clone, restored)


def eight_clients():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(life_of_a_client, number) for number in range(8)]:
            future.result()


def link_over_volume():
    """os-brick's encryptors link over the path that they are given: that must not cost the volume."""
    one = create(1)
    fill(one, 7)
    with attached(one) as path:
        assert os.system('ln --symbolic --force /dev/null "%s" 2>/dev/null' % path) != 0
        expect(path, 7)
    delete(one)


PARTS = {one.__name__: one for one in (
    attach, read_only, multi_attach, snapshots, clone_chain, extend, revert, cascade, nothing_shows_through,
    eight_clients, link_over_volume)}
