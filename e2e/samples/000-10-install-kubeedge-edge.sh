keadm join --cloudcore-ipport=<address>:10000 --edgenode-name=edge-node-1 --token=<token> --cgroupdriver=systemd
systemctl status edgecore
