#!/bin/sh
# Prepare the emulated machine's kernel and initramfs under .cache/vm of the checkout; prints the folder that holds them.
# In: nothing (CACHE overrides the folder). Needs root and Debian's apt only for what is missing; a second run does nothing.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cache=${CACHE:-$(CDPATH='' cd -- "$here/../.." && pwd)/.cache/vm}
meta=linux-image-cloud-amd64
say() { echo "tests/vm/setup.sh: $*" >&2; }
# What is downloaded and built depends on these two files and on the kernel's version alone.
recipe=$(cat "$here/initramfs.py" "$here/init.sh" | sha256sum | cut -c1-12)

install_tools() {
    missing=
    for pair in qemu-system-x86_64:qemu-system-x86 /usr/lib/qemu/virtiofsd:qemu-system-common depmod:kmod \
        /lib/systemd/systemd:systemd busybox:busybox-static cpio:cpio mkfs.ext4:e2fsprogs nft:nftables curl:curl; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
    done
    [ -z "$missing" ] && return
    say "installing$missing"
    # shellcheck disable=SC2086
    apt-get install -qq -y --no-install-recommends $missing >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing >/dev/null; }
}

kernel_package() { # the newest versioned package behind the meta package, or nothing
    apt-cache depends "$meta" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1
}

install_tools
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # two test runs at once: the second finds the first one's work

if [ -f "$cache/current/ready-$recipe" ]; then
    (cd -P "$cache/current" && pwd)
    exit 0
fi

package=$(kernel_package)
[ -n "$package" ] || { apt-get update -qq && package=$(kernel_package); }
[ -n "$package" ] || { say "apt knows no $meta: the emulated machine needs Debian's kernel package"; exit 1; }
folder="$cache/$package"
if ! ls "$folder"/boot/vmlinuz-* >/dev/null 2>&1; then
    say "downloading $package"
    rm -rf "$folder.part" && mkdir -p "$folder.part/deb"
    chmod 0777 "$folder.part/deb"
    (cd "$folder.part/deb" && { apt-get download -qq "$package" || { apt-get update -qq && apt-get download -qq "$package"; }; })
    dpkg-deb -x "$folder.part"/deb/*.deb "$folder.part"
    rm -r "$folder.part/deb"
    rm -rf "$folder" && mv "$folder.part" "$folder"
fi
depmod -b "$folder" "$(ls "$folder/lib/modules")"
say "building the initramfs"
python3 "$here/initramfs.py" "$folder" "$folder/initramfs.cpio"
rm -f "$folder"/ready-*
: >"$folder/ready-$recipe"
ln -sfn "$package" "$cache/current"
(cd -P "$cache/current" && pwd)
