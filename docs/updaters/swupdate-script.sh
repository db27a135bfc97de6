#!/bin/sh
# SWUpdate shell script (type "shellscript"): the archive handler has unpacked the bundle to $UNPACKED.
set -eu
case "$1" in
postinst)
    fthnet bundle install "$UNPACKED/bundle" --slots "$SLOTS" --require-signature "$KEY"
    fthnet bundle activate --slots "$SLOTS" --require-signature "$KEY"
    ;;
esac
