# Exit code 0: this node sees all slots served and, if it is a replica, follows its primary.
info=$(REDISCLI_AUTH=$(cat /etc/valkey-users/health-password) valkey-cli --no-auth-warning \
    --user health --tls --cacert /etc/valkey-tls/ca.crt -h "$POD_NAME.redis-cluster.$POD_NAMESPACE.svc" \
    <<COMMANDS
CLUSTER INFO
INFO replication
COMMANDS
) || exit 1
case $info in
    *cluster_state:ok*) ;;
    *) exit 1 ;;
esac
case $info in
    *role:slave*) case $info in *master_link_status:up*) ;; *) exit 1 ;; esac ;;
esac
