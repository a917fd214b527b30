# An archive whose InRelease is signed, with a package that was changed at the mirror. Called again, it installs from what the gateway
# has stored.
. "$PROGRAMS/apt_root.sh"
mkdir -p etc root/usr/share/trial
[ -s key.gpg ] || curl -sS http://127.0.0.1:1080/apt/signed/key.gpg >key.gpg
echo "deb [signed-by=$PWD/key.gpg] http://127.0.0.1:1080/apt/signed/ ./" >etc/sources.list
apt-get --quiet=2 update
rm -rf cache/archives root/usr/share/trial/*
mkdir -p cache/archives/partial
: >root/var/lib/dpkg/status
apt-get --quiet=2 --yes install trial-01 trial-02 trial-12 >/dev/null
sha256sum root/usr/share/trial/* >installed
[ "$(wc -l <installed)" = 3 ]
[ ! -e before ] || cmp before installed
cp installed before
if apt-get --quiet=2 --yes install trial-03 >/dev/null 2>error; then
    echo "a changed package was installed" >&2
    exit 1
fi
[ ! -e root/usr/share/trial/03 ]
