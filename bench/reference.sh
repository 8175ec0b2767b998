#!/bin/sh
# reference.sh BIN [CHECKPOINT]: every frame of the reference workload, into bench/reference/*.json and
# docs/benchmarks.md. CHECKPOINT: a trained `tiny` for the frame with trained routing.
set -eu
bin=$1
out=bench/reference
mkdir -p "$out"
frame() { # NAME OPTIONS...
	name=$1
	shift
	"$bin/moevit" bench "$@" -o "$out/$name.json" >/dev/null
}
frame 1-tiny-129-uniform --size tiny --image-size 128x256 --resources --all-tasks --on-demand 2 \
	--tasks segmentation,depth,segmentation,depth
frame 2-tiny-129-random --size tiny --image-size 128x256 --router random
[ -z "${2-}" ] || frame 3-tiny-129-trained --size tiny --image-size 128x256 --router "$2"
frame 4-tiny-129-int4 --size tiny --image-size 128x256 --experts int4 \
	--tasks segmentation,depth,normals --stream 8
frame 5-tiny-197-uniform --size tiny --image-size 224x224
frame 6-tiny-197-int4 --size tiny --image-size 224x224 --experts int4
frame 7-small-197-uniform --size small --image-size 224x224
frame 4-tiny-129-w4 --size tiny --image-size 128x256 --weights int4 \
	--tasks segmentation,depth,normals --stream 8
frame 6-tiny-197-w4 --size tiny --image-size 224x224 --weights int4
frame 8-2048-129-int4 --size tiny --image-size 128x256 --experts int4 --preset zcu104-2048
frame 9-2048-129-int8 --size tiny --image-size 128x256 --preset zcu104-2048
"$bin/python" -m moevit.bench.frames_page docs/benchmarks.md "$out"/*.json
