"""What people do with Cinder, done with real services on voltree's driver, and looked at on both sides: in Cinder's
answers and in the bytes.

Usage: scenario.py [PART...]     (none: all)
"""

import sys
import time
import traceback

import api
import parts_crashes
import parts_groups
import parts_images
import parts_moves
import parts_volumes
import volumes

PARTS = {}
for module in (parts_volumes, parts_images, parts_groups, parts_moves, parts_crashes):
    PARTS.update(module.PARTS)


def nothing_left(name):
    """What a part made, it has deleted: then neither Cinder nor the stores know of anything."""
    left = [one['id'] for one in api.get('/volumes', all_tenants=1)['volumes']]
    left += [one['id'] for one in api.get('/snapshots', all_tenants=1)['snapshots']]
    stored = volumes.store_names()
    assert not left, '%s leaves in Cinder %s' % (name, left)
    assert not stored, '%s leaves in the stores %s' % (name, stored)


def main():
    volumes.set_up()
    failed = []
    for name in sys.argv[1:] or PARTS:
        began = time.monotonic()
        try:
            PARTS[name]()
            nothing_left(name)
            print('%-24s passed in %.1f s' % (name, time.monotonic() - began), flush=True)
        except Exception:  # the other parts are told of, too
            traceback.print_exc()
            print('%-24s FAILED' % name, flush=True)
            failed.append(name)
            volumes.sweep()
    print('%d parts, %d failed' % (len(sys.argv[1:] or PARTS), len(failed)))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
