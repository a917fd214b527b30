# Sourced by others: an apt that keeps all that it has in the working directory.
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
Acquire::https::CaInfo "$CA";
Acquire::Retries "0";
DPkg::Options { "--root=$PWD/root"; "--force-not-root"; "--log=/dev/null"; };
CONF
export APT_CONFIG="$PWD/apt.conf"
