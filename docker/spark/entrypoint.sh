#!/usr/bin/env bash
# What Spark on Kubernetes starts: `driver ARGUMENTS…`, `executor`, or any other command as it is.
# Spark says the rest by variables: https://spark.apache.org/docs/latest/running-on-kubernetes.html
set -euo pipefail

options=()
while IFS='=' read -r -d '' name value; do
  # Numbered by Spark, because an option may hold spaces.
  if [[ $name == SPARK_JAVA_OPT_* ]]; then options+=("$value"); fi
done < <(env -0)

init=()
if [ -x /usr/bin/tini ]; then init=(/usr/bin/tini -s --); fi

case ${1:-} in
  driver)
    shift
    exec "${init[@]}" "$SPARK_HOME/bin/spark-submit" --deploy-mode client \
      --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" "$@"
    ;;
  executor)
    exec "${init[@]}" "${JAVA_HOME:+$JAVA_HOME/bin/}java" "${options[@]}" \
      "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" -cp "${SPARK_CLASSPATH:-}:$SPARK_HOME/jars/*" \
      org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
      --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
      --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
      --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
    ;;
  *) exec "${init[@]}" "$@" ;;
esac
