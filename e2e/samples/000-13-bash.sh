kubectl get devices -n default
kubectl describe device sensor-01
kubectl get device sensor-01 -o jsonpath='{.status.twins}'
