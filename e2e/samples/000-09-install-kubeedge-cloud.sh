keadm init --advertise-address="<address>" --profile version=v1.15.0
kubectl get pods -n kubeedge
keadm gettoken
keadm gettoken
