keadm join --cloudcore-ipport=<address>:10000 --edgenode-name=edge-node-1 --token=<token> --certPath=/etc/kubeedge/certs --cgroupdriver=systemd
