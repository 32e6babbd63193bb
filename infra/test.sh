#!/usr/bin/env bash
# Every test: those that need no Ray, vLLM or database server on all cores, those of the gateway once more on what its
# sources were compiled to (where they were), then those that need all of it, one by one.
#   infra/test.sh <folder of the environment's programs> [arguments for pytest]
# Both runs go to their end; fails when one of them does, or when there was nothing to run in either.
set -uo pipefail
run=$1
shift
nothing=5 # pytest's word for "no test was chosen"

"$run/pytest" -m "not integration" -n auto --dist loadfile "$@"
first=$?
compiled=$nothing
if [ $# -eq 0 ] && "$run/python" -c 'import sys; from finmaas_serving import compiled; sys.exit(not compiled.install())'; then
  FINMAAS_TEST_COMPILED=1 "$run/pytest" -m "not integration" -n auto --dist loadfile tests/serving/gateway tests/serving/guard
  compiled=$?
fi
"$run/pytest" -m integration "$@"
second=$?

echo "without Ray, vLLM and database servers: exit $first, the gateway compiled: exit $compiled;" \
  "with them: exit $second (0: passed, $nothing: none chosen)"
[ "$compiled" -eq $nothing ] || [ "$compiled" -le "$first" ] || first=$compiled
[ "$first" -eq $nothing ] && first=0 && [ "$second" -eq $nothing ] && exit $nothing
[ "$second" -eq $nothing ] && second=0
exit $((first > second ? first : second))
