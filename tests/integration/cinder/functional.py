"""Cinder's own functional tests (its API, scheduler and volume service in one process) with VoltreeDriver in the place
of the driver that they name, on a real daemon.

Fails when a test fails, when tests were lost, or when the driver was hardly used.
"""

import collections
import json
import os
import subprocess
import sys
import unittest

os.symlink('/etc', '/usr/lib/python3/dist-packages/etc')  # where the tests look for Cinder's files

import eventlet  # noqa: E402

eventlet.monkey_patch()

from cinder.tests.functional import functional_helpers  # noqa: E402

import voltree_cinder  # noqa: E402

MODULES = ('test_volumes', 'test_groups', 'test_group_snapshots', 'test_default_types', 'test_extensions',
           'test_login', 'test_middleware')
TESTS_MIN = 38
NEEDED_CALLS = ('create_volume', 'delete_volume', 'create_snapshot', 'delete_snapshot', 'create_cloned_volume',
                'create_volume_from_snapshot', 'remove_export', 'get_volume_stats')

calls = collections.Counter()


def use_voltree():
    base = functional_helpers._FunctionalTestBase
    override = base.override_config

    def override_config(self, name, value, group=None):
        if name == 'volume_driver':
            value = 'voltree_cinder.VoltreeDriver'
        override(self, name, value, group)

    base.override_config = override_config
    ask = voltree_cinder.VoltreeDriver._call

    def count(self, name, **arguments):
        calls[name] += 1
        return ask(self, name, **arguments)

    voltree_cinder.VoltreeDriver._call = count


def main():
    use_voltree()
    suite = unittest.defaultTestLoader.loadTestsFromNames(
        ['cinder.tests.functional.' + module for module in MODULES])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    print('calls of the driver:', dict(calls))
    # Some tests leave a volume; none of those that were deleted is still there, and none is there twice.
    made = sum(calls[name] for name in ('create_volume', 'create_cloned_volume', 'create_volume_from_snapshot'))
    expected = made - calls['delete_volume']
    nodes = json.loads(subprocess.check_output(['voltree', '--json', 'list']))['nodes']
    if len(nodes) != expected:
        print('%d volumes are left by the tests, and these are there: %s' % (expected, nodes))
        return 1
    missing = [name for name in NEEDED_CALLS if not calls[name]]
    if missing:
        print('never called:', missing)
    return 0 if result.wasSuccessful() and result.testsRun >= TESTS_MIN and not missing else 1


sys.exit(main())
