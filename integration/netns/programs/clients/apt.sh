# update and install, by apt's own Proxy-Auto-Detect and then by the variables; over HTTP with pipelining, and HTTPS.
mkdir -p etc/apt.conf.d etc/preferences.d etc/trusted.gpg.d state/lists/partial cache/archives/partial root/var/lib/dpkg/info root/var/lib/dpkg/updates
: >root/var/lib/dpkg/status
: >root/var/lib/dpkg/available
printf '#!/bin/sh\nexec "%s" apt-proxy "$@"\n' "$LANEWAY" >detect
chmod +x detect
cat >apt.conf <<CONF
Dir "$PWD";
Dir::Etc "$PWD/etc";
Dir::State "$PWD/state";
Dir::State::status "$PWD/root/var/lib/dpkg/status";
Dir::Cache "$PWD/cache";
Dir::Log "$PWD";
Dir::Bin::methods "/usr/lib/apt/methods";
APT::Sandbox::User "root";
APT::Architecture "$(dpkg --print-architecture)";
Acquire::http::Pipeline-Depth "10";
Acquire::https::CaInfo "$CA";
Acquire::Retries "0";
DPkg::Options { "--root=$PWD/root"; "--force-not-root"; "--log=/dev/null"; };
CONF
export APT_CONFIG="$PWD/apt.conf"
echo 'Acquire::http::Proxy-Auto-Detect "'"$PWD"'/detect";' >etc/apt.conf.d/30laneway
echo "deb [trusted=yes] http://$SITE/debian ./" >etc/sources.list
apt-get --quiet=2 update
apt-get --quiet=2 --yes install trial-01 trial-02 trial-03 trial-04 trial-05 trial-06 trial-07 trial-08 trial-09 trial-10 >/dev/null
[ "$(ls root/usr/share/trial | wc -l)" = 10 ]

rm etc/apt.conf.d/30laneway
eval "$("$LANEWAY" env)"
echo "deb [trusted=yes] https://$SITE/debian ./" >etc/sources.list
apt-get --quiet=2 update
apt-get --quiet=2 --yes install trial-11 trial-12 >/dev/null
[ "$(ls root/usr/share/trial | wc -l)" = 12 ]
