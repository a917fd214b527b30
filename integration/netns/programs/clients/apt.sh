# update and install, by apt's own Proxy-Auto-Detect and then by the variables; over HTTP with pipelining, and HTTPS.
. "$PROGRAMS/apt_root.sh"
printf '#!/bin/sh\nexec "%s" apt-proxy "$@"\n' "$LANEWAY" >detect
chmod +x detect
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
