[laneway]
title=laneway
description=Discovery, on every machine
ports=7420/udp

[laneway gateway]
title=laneway gateway
description=Discovery, links and joining, on gateways and on the machine that created the group
ports=7420
