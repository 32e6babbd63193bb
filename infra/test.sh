#!/usr/bin/env bash
# Every test, in two runs: those that need no Ray, vLLM or database server on all cores, then those that do, one by one.
#   infra/test.sh <folder of the environment's programs> [arguments for pytest]
# Both runs go to their end; fails when one of them does, or when there was nothing to run in either.
set -uo pipefail
run=$1
shift
nothing=5 # pytest's word for "no test was chosen"

"$run/pytest" -m "not integration" -n auto --dist loadfile "$@"
first=$?
"$run/pytest" -m integration "$@"
second=$?

echo "without Ray, vLLM and database servers: exit $first; with them: exit $second (0: passed, $nothing: none chosen)"
[ "$first" -eq $nothing ] && first=0 && [ "$second" -eq $nothing ] && exit $nothing
[ "$second" -eq $nothing ] && second=0
exit $((first > second ? first : second))
