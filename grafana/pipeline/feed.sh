#!/bin/sh
# Places orders: appends twenty a second to a file, with the time at which that is.
#
# Some are not as they should be, so that there is something to see. Of each hundred, one is no JSON, one has no country, one has no
# pieces, and five are free. In the second half of a minute, a few were placed twenty seconds before. Every ten minutes, all are held
# back for twenty seconds.
set -eu
file="$1"
number=0
held=""
while :; do
  now="$(date -u +%FT%T.%3NZ)"
  for _ in 1 2 3 4 5; do
    number=$((number + 1))
    placed="$now" cents=$((number * 7919 % 100000 + 1)) pieces=$((number % 4 + 1)) end="}"
    case $((number % 7)) in
      0 | 1) country='"DE"' ;;
      2 | 3) country='"FR"' ;;
      4) country='"IT"' ;;
      5) country='"PL"' ;;
      *) country='"SE"' ;;
    esac
    case $((number % 100)) in
      13) country=null ;;
      21 | 23 | 25 | 27 | 29) cents=0 ;;
      37) pieces=0 ;;
      71) end="" ;;
    esac
    case "$((number % 300)) $now" in
      59*:[345]?.*) placed="$(date -u -d '20 seconds ago' +%FT%T.%3NZ)" ;;
    esac
    held="$held{\"id\": $number, \"placed\": \"$placed\", \"country\": $country, \"cents\": $cents, \"pieces\": $pieces$end
"
  done
  if [ $((number % 12000)) -lt 11600 ]; then
    printf '%s' "$held" >> "$file"
    held=""
  fi
  sleep 0.25
done
