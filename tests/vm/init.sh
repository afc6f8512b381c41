#!/bin/busybox sh
# PID 1 of the emulated machine. The host's / is its root, read-only, with fresh /tmp, /run, /root and /mnt; cgroups are
# pure v2. Runs /job/run (from the archive that machine.py appends) and writes "JOB-EXIT status" to the console.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
while read -r module; do $B insmod "/modules/$module" || echo "init: insmod $module failed"; done </modules/order

# By this heartbeat machine.py tells a machine that stands still from a job that does. After 280 s: what the tasks wait for.
(
    exec 3>/proc/sysrq-trigger
    n=0
    while $B sleep 5; do
        echo ALIVE
        n=$((n + 1))
        [ "$n" = 56 ] && echo w >&3
    done
) &

$B mount -t virtiofs -o ro host /new || { echo "init: cannot mount the host's /"; $B poweroff -f; }
for each in proc sys dev; do $B mount -o move "/$each" "/new/$each"; done
for each in tmp run root mnt; do $B mount -t tmpfs -o mode=0755 tmpfs "/new/$each"; done
$B chmod 1777 /new/tmp
$B mkdir -p /new/dev/pts /new/dev/shm /new/dev/mqueue /new/run/lock
$B mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /new/dev/pts
$B mount -t tmpfs -o mode=1777 tmpfs /new/dev/shm
$B mount -t mqueue mqueue /new/dev/mqueue
for pair in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
    $B ln -snf "${pair#*:}" "/new/dev/${pair%%:*}"
done
$B mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
$B ip link set lo up
$B hostname machine
# The state disk: real block I/O, so that io limits have a device to name.
$B mkdir -p /new/mnt/state && $B mount -t ext4 -o noatime,prjquota /new/dev/vda /new/mnt/state

# Folders of the host that lie where the guest has its own: TAG PATH.
while read -r tag path; do
    $B mkdir -p "/new$path" && $B mount -t virtiofs -o ro "$tag" "/new$path" || echo "init: cannot mount $path"
done </job/shares
$B mkdir -p /new/run/job && $B cp /job/run /new/run/job/run
# As switch_root does it: the mount itself becomes the namespace's root, so that setns(2) into a container's mount namespace
# later starts at the container's root. This shell keeps the initramfs as its own root and the new one as its folder.
cd /new && $B mount -o move . /
$B stty -F dev/ttyS1 raw -echo
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    $B chroot . /bin/sh /run/job/run <dev/null >dev/ttyS1 2>&1
status=$?
$B sync
printf "\nJOB-EXIT %s\n" "$status"
$B poweroff -f
