#!/bin/sh
# RAUC slot hook (hooks=post-install): RAUC has checked its own signature and mounted the new slot.
set -eu
case "$1" in
slot-post-install)
    fthnet bundle install "$RAUC_SLOT_MOUNT_POINT/bundle" --slots "$SLOTS" --require-signature "$KEY"
    fthnet bundle activate --slots "$SLOTS" --require-signature "$KEY"
    ;;
esac
