#!/bin/sh
# collect.sh ROOT PROGRAM...: puts what programs of ours need beside themselves into a folder that becomes an image: the shared libraries that
# ldd names, the certificates of public authorities, the names of the user. What `cargo xtask images` does, for the Dockerfiles here.
set -eu
root=$1
shift
for program in "$@"; do
    listed=$(ldd "$program")
    case $listed in *"not found"*) echo "$program: $listed" >&2; exit 1 ;; esac
    printf '%s\n' "$listed" | sed -n 's|^.*=> *\(/[^ ]*\) .*|\1|p; s|^[[:space:]]*\(/[^ ]*\) .*|\1|p' | while read -r library; do
        install -D -m 755 "$library" "$root$library"
    done
done
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0:root:/root:/sbin/nologin\npodtap:x:65532:65532:podtap:/nonexistent:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\npodtap:x:65532:\n' >"$root/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
