#!/usr/bin/env bash
# In the container: the daemons, MariaDB, RabbitMQ, Glance and Cinder; then scenario.py.
# Several processes of Cinder on SQLite lock each other out, hence the database. No Keystone: noauth.
# Usage: services.sh [PART...]      (scenario.py's; none: all. "wait" only keeps the services up)
set -euo pipefail
mkdir -p /results
exec 3>&1

die() {
  echo "$*" >&3
  tail -20 /results/*.log >&3
  exit 1
}

wait_for() { # wait_for WHAT COMMAND...: up to two minutes
  local what=$1 i
  shift
  for ((i = 0; i < 600; i++)); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.2
  done
  die "$what does not start"
}

# --- Four stores of the user that Cinder runs as, and one of root's, whose volumes go out as loop devices.
install -d -o cinder -g cinder /var/lib/voltree-a /var/lib/voltree-b /var/lib/voltree-crash /var/lib/voltree-spare
install -d /var/lib/voltree-loop /mnt/a /mnt/b /mnt/crash /mnt/spare /mnt/loop
chown cinder:cinder /mnt/a /mnt/b /mnt/crash /mnt/spare
for store in a b crash spare; do runuser -u cinder -- voltree --store "/var/lib/voltree-$store" init >/dev/null; done
voltree --store /var/lib/voltree-loop init >/dev/null
for store in a b crash spare loop; do /tests/start "voltree-$store"; done

# --- What Cinder needs.
install -d -o mysql -g mysql /run/mysqld
chown -R mysql:mysql /var/lib/mysql
/tests/start mariadb
install -d -o rabbitmq -g rabbitmq /run/rabbitmq
chown -R rabbitmq:rabbitmq /var/lib/rabbitmq /var/log/rabbitmq
/tests/start rabbitmq
database='unix_socket=/run/mysqld/mysqld.sock&charset=utf8'
wait_for MariaDB mariadb -e 'select 1'
mariadb -e 'create database cinder; create database glance'

install -d -o glance -g glance /var/lib/glance/images /var/lock/glance
usermod -aG glance cinder # allowed_direct_url_schemes: it opens Glance's files itself
cat >/etc/glance/glance-api.conf <<END
[DEFAULT]
bind_host = 127.0.0.1
workers = 1
show_multiple_locations = true
show_image_direct_url = true
[database]
connection = mysql+pymysql://root@localhost/glance?$database
[glance_store]
stores = file
default_store = file
filesystem_store_datadir = /var/lib/glance/images
[oslo_concurrency]
lock_path = /var/lock/glance
[paste_deploy]
flavor =
END
install -d -o cinder -g cinder /var/lib/cinder /var/lib/cinder/conversion /var/lib/cinder/backup /var/lock/cinder
backend() { # backend NAME STORE CONNECTION
  cat <<END
[$1]
volume_driver = voltree_cinder.VoltreeDriver
volume_backend_name = $1
voltree_socket = /var/lib/voltree-$2/run/control.sock
voltree_connection = $3
voltree_free_min_gb = 1
voltree_manage_directories = /srv/images
END
}
common="auth_strategy = noauth
transport_url = rabbit://guest:guest@127.0.0.1:5672/
glance_api_servers = http://127.0.0.1:9292
osapi_volume_listen = 127.0.0.1
osapi_volume_workers = 1
state_path = /var/lib/cinder
allowed_direct_url_schemes = cinder,file
default_volume_type = a
backup_driver = cinder.backup.drivers.posix.PosixBackupDriver
backup_posix_path = /var/lib/cinder/backup
backup_file_size = 52428800
backup_workers = 1
backend_stats_polling_interval = 10
report_interval = 5
allow_availability_zone_fallback = true
cinder_internal_tenant_project_id = 11111111111111111111111111111111
cinder_internal_tenant_user_id = 11111111111111111111111111111111
enable_force_upload = true
quota_volumes = -1
quota_snapshots = -1
quota_gigabytes = -1
quota_backups = -1
quota_backup_gigabytes = -1
quota_groups = -1
volume_service_inithost_offload = true
[database]
connection = mysql+pymysql://root@localhost/cinder?$database
[oslo_concurrency]
lock_path = /var/lock/cinder
[coordination]
backend_url = file:///var/lib/cinder"
{
  printf '[DEFAULT]\nenabled_backends = a, b\nhost = cinder\n%s\n' "$common"
  backend a a file
  backend b b file
  echo "image_volume_cache_enabled = true"
} >/etc/cinder/cinder.conf
{
  printf '[DEFAULT]\nenabled_backends = loop\nhost = cinder-root\n%s\n' "$common"
  backend loop loop local
} >/etc/cinder/cinder-root.conf
{
  printf '[DEFAULT]\nenabled_backends = crash, spare\nhost = cinder-crash\n%s\n' "$common"
  backend spare spare file
  backend crash crash file
  echo "voltree_socket = /run/crash/control.sock" # parts_crashes.py
  echo "backup_use_temp_snapshot = true"           # snapshots are attached themselves
} >/etc/cinder/cinder-crash.conf
install -d -o cinder -g cinder /etc/cinder/policy.d
install -d /srv/images

glance-manage db_sync >/results/glance-db.log 2>&1 || die "Glance's database"
cinder-manage db sync >/results/cinder-db.log 2>&1 || die "Cinder's database"
wait_for RabbitMQ env RABBITMQ_NODENAME=rabbit@localhost rabbitmqctl await_startup
for service in glance-api cinder-api cinder-scheduler cinder-volume cinder-volume-root cinder-backup; do
  /tests/start "$service"
done
wait_for Glance curl -sf http://127.0.0.1:9292/versions
wait_for Cinder curl -sf http://127.0.0.1:8776/
if [[ ${1:-} == wait ]]; then
  echo ready
  exec sleep infinity
fi
status=0
python3 /tests/scenario.py "$@" || status=$?
for store in a b crash spare loop; do
  voltree --store "/var/lib/voltree-$store" check --data || status=1
done
exit "$status"
