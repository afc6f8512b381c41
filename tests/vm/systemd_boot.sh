#!/bin/sh
# In the emulated machine: systemd as process 1 of namespaces of its own, booted into one unit that runs systemd_smoke.sh.
# In: PYTHON. Out: what the smoke prints, then the last words of systemd where it did not come to its end.
set -eu
python=$1
here=$(pwd)
out=/mnt/smoke.log
: >$out
cat >/mnt/inside.sh <<END
set -e
mount --make-rprivate /
mount -t proc proc /proc
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /mnt/state/var /run/systemd/system /run/lock
mount --bind /mnt/state/var /var
cat >/run/systemd/system/smoke.service <<UNIT
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
WorkingDirectory=$here
ExecStart=/bin/sh $here/tests/vm/systemd_smoke.sh $python
StandardOutput=append:$out
StandardError=append:$out
UNIT
printf '[Unit]\nDefaultDependencies=no\nWants=smoke.service\n' >/run/systemd/system/smoke.target
export container=other
exec /lib/systemd/systemd --unit=smoke.target --log-target=console --show-status=0
END
unshare --pid --fork --mount --cgroup --uts --ipc sh /mnt/inside.sh >/mnt/systemd.log 2>&1 &
namespaces=$!
tail -n +1 -f --pid=$namespaces $out &
left=240
while [ $left -gt 0 ] && kill -0 $namespaces 2>/dev/null && ! grep -q '^SMOKE-DONE' $out; do
    sleep 1
    left=$((left - 1))
done
grep -q '^SMOKE-DONE' $out || tail -30 /mnt/systemd.log
kill -9 $namespaces 2>/dev/null || true
wait
