# Becomes the first process of a machine: run in namespaces of its own, with the
# directory for its root, its name, its console and what it is not to see.
set -eu
base=$1 name=$2 console=$3 hidden=$4
exec </dev/null >"$console" 2>&1

# The files of this machine, with what changes in memory.
mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$base"
mkdir "$base/up" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=/,upperdir=$base/up,workdir=$base/work" machine "$base/root"
cd "$base/root"

mount -t tmpfs -o mode=755 hidden ".$hidden"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for node in null zero full random urandom tty; do
  : >"dev/$node"
  mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=700 home root

hostname "$name"
echo "$name" >etc/hostname
printf '127.0.0.1 localhost %s\n' "$name" >etc/hosts
: >etc/machine-id
rm -rf etc/systemd/system/*.wants
for unit in systemd-udevd.service systemd-logind.service console-getty.service systemd-journal-flush.service systemd-random-seed.service ldconfig.service; do
  ln -sf /dev/null "etc/systemd/system/$unit"
done

mkdir .outside
pivot_root . .outside
umount -l .outside
# As systemd wants it: the credentials of a service are mounted from beside.
mount --make-rshared /
exec env -i container=machine PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=0
