# update and install from a front, without any proxy; then from another cache directory, which costs the line nothing.
mkdir -p etc/apt.conf.d etc/preferences.d etc/trusted.gpg.d state/lists/partial cache/archives/partial root/var/lib/dpkg/info root/var/lib/dpkg/updates
: >root/var/lib/dpkg/status
: >root/var/lib/dpkg/available
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
Acquire::Retries "0";
DPkg::Options { "--root=$PWD/root"; "--force-not-root"; "--log=/dev/null"; };
CONF
export APT_CONFIG="$PWD/apt.conf"
"$LANEWAY" env --fronts | sed -n 's|^#   deb \(.*/apt/trial/\).*|deb [trusted=yes] \1 ./|p' >etc/sources.list
[ -s etc/sources.list ]
apt-get --quiet=2 update
apt-get --quiet=2 --yes install trial-01 trial-02 trial-03 trial-04 trial-05 trial-06 trial-07 trial-08 trial-09 trial-10 trial-11 trial-12 >/dev/null
[ "$(ls root/usr/share/trial | wc -l)" = 12 ]
curl -sS http://127.0.0.1:1080/metrics | grep -q 'laneway_front_files_total{result="verified",registry="apt"} 12'
