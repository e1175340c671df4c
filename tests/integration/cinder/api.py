"""The REST APIs of Cinder and Glance without Keystone, as far as scenario.py needs them."""

import time

import requests

PROJECT = '22222222222222222222222222222222'
CINDER = 'http://127.0.0.1:8776/v3/' + PROJECT
GLANCE = 'http://127.0.0.1:9292/v2'
TIMEOUT_S = 180


class Refused(Exception):
    """An answer of 400 and above."""

    def __init__(self, response):
        super().__init__('%s %s: %s' % (response.request.method, response.request.url, response.text[:300]))
        self.status = response.status_code


def _ask(method, url, body=None, **more):
    headers = {'X-Auth-Token': 'admin:' + PROJECT, 'OpenStack-API-Version': 'volume 3.70',
               'Accept': 'application/json'}
    response = requests.request(method, url, json=body, headers=headers, timeout=TIMEOUT_S, **more)
    if response.status_code >= 400:
        raise Refused(response)
    return response.json() if response.content else None


def get(path, **params):
    return _ask('GET', CINDER + path, params=params)


def post(path, body=None):
    return _ask('POST', CINDER + path, body)


def put(path, body=None):
    return _ask('PUT', CINDER + path, body)


def delete(path, **params):
    return _ask('DELETE', CINDER + path, params=params)


def action(kind, the_id, name, body=None):
    return post('/%s/%s/action' % (kind, the_id), {name: body})


# What a path's answer is called in its JSON.
NAMES = {'volumes': 'volume', 'snapshots': 'snapshot', 'backups': 'backup', 'groups': 'group',
         'group_snapshots': 'group_snapshot', 'attachments': 'attachment'}


def show(kind, the_id):
    """The object, or None."""
    try:
        return get('/%s/%s' % (kind, the_id))[NAMES[kind]]
    except Refused as error:
        if error.status == 404:
            return None
        raise


def wait(kind, the_id, wanted='available', key='status'):
    """Until it has the status wanted (or one of a tuple), or is gone (None). An error is the end, too."""
    deadline = time.monotonic() + TIMEOUT_S
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    while True:
        there = show(kind, the_id)
        status = there[key] if there else None
        if status in wanted:
            return there
        if (status or '').startswith('error') or there is None or time.monotonic() > deadline:
            raise AssertionError('%s %s: %s is %s, not %s: %s'
                                 % (kind, the_id, key, status, wanted, messages(the_id)))
        time.sleep(0.1)


def messages(the_id):
    """What Cinder tells its user of a failure."""
    found = get('/messages', resource_uuid=the_id)['messages']
    return [one['user_message'] for one in found]


# --- Glance.

def image_create(name, disk_format, data):
    image = _ask('POST', GLANCE + '/images', {'name': name, 'disk_format': disk_format, 'container_format': 'bare'})
    response = requests.put('%s/images/%s/file' % (GLANCE, image['id']), data=data, timeout=TIMEOUT_S,
                            headers={'Content-Type': 'application/octet-stream'})
    if response.status_code >= 400:
        raise Refused(response)
    return image['id']


def image_show(the_id):
    return _ask('GET', '%s/images/%s' % (GLANCE, the_id))


def image_wait(the_id):
    deadline = time.monotonic() + TIMEOUT_S
    while image_show(the_id)['status'] != 'active':
        if time.monotonic() > deadline:
            raise AssertionError('image %s: %s' % (the_id, image_show(the_id)))
        time.sleep(0.1)


def image_download(the_id, path):
    with requests.get('%s/images/%s/file' % (GLANCE, the_id), stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code >= 400:
            raise Refused(response)
        with open(path, 'wb') as out:
            for piece in response.iter_content(1 << 20):
                out.write(piece)


def image_delete(the_id):
    _ask('DELETE', '%s/images/%s' % (GLANCE, the_id))
