# By a ProxyCommand: netcat-openbsd, over CONNECT and over SOCKS; %h is resolved at the gateway.
for kind in connect 5; do
    ssh -F none -i "$KEY" -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o LogLevel=ERROR -o ProxyCommand="nc.openbsd -X $kind -x 127.0.0.1:1080 %h %p" "root@$SITE" 'head -c 3000000 /dev/zero | wc -c' >answer
    grep -q -x 3000000 answer
done
