#!/usr/bin/env python3
"""One call of the volume driver through the daemon's socket: prints its result, or the error.

Usage: driver_call.py SOCKET CALL ARGUMENTS CONFIGURATION      (the two last as JSON)
"""
import json
import socket
import sys

path, call, arguments, configuration = sys.argv[1:]
params = {'call': call, 'arguments': json.loads(arguments), 'configuration': json.loads(configuration)}
with socket.socket(socket.AF_UNIX) as daemon:
    daemon.connect(path)
    daemon.sendall(json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': 'driver.call', 'params': params}).encode() + b'\n')
    for line in daemon.makefile():
        answer = json.loads(line)
        if 'id' in answer:  # and no progress
            print(json.dumps(answer.get('result', answer.get('error'))))
            break
