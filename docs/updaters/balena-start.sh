#!/bin/sh
# Start of a balena container: the image carries the bundle in $IMAGE, the slots lie on a volume. A bundle that fails
# leaves the one that ran before.
set -eu
if ! cmp -s "$IMAGE/bundle/signed_manifest.sig" "$SLOTS/current/signed_manifest.sig"; then
    if fthnet bundle install "$IMAGE/bundle" --slots "$SLOTS" --require-signature "$KEY"; then
        fthnet bundle activate --slots "$SLOTS" --require-signature "$KEY" || echo "the bundle before it stays" >&2
    fi
fi
exec fthnet run --bundle "$SLOTS/current" --require-signature "$KEY" "$@"
