#!/bin/sh
# Mender update module: $1 is the state, $2 the folder of the artifact; its files lie in $2/files.
set -eu
case "$1" in
NeedsArtifactReboot) echo No ;;
SupportsRollback) echo Yes ;;
ArtifactInstall)
    fthnet bundle install "$2/files/bundle" --slots "$SLOTS" --require-signature "$KEY"
    fthnet bundle activate --slots "$SLOTS" --require-signature "$KEY"
    : >"$2/activated"
    ;;
ArtifactRollback)
    [ ! -e "$2/activated" ] || fthnet bundle rollback --slots "$SLOTS" --require-signature "$KEY"
    ;;
esac
