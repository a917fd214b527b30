# update and install from a front, without any proxy; then from another cache directory, which costs the line nothing.
. "$PROGRAMS/apt_root.sh"
"$LANEWAY" env --fronts | sed -n 's|^#   deb \(.*/apt/trial/\).*|deb [trusted=yes] \1 ./|p' >etc/sources.list
[ -s etc/sources.list ]
apt-get --quiet=2 update
apt-get --quiet=2 --yes install trial-01 trial-02 trial-03 trial-04 trial-05 trial-06 trial-07 trial-08 trial-09 trial-10 trial-11 trial-12 >/dev/null
[ "$(ls root/usr/share/trial | wc -l)" = 12 ]
curl -sS http://127.0.0.1:1080/metrics | grep -q 'laneway_front_files_total{result="verified",registry="apt"} 12'
