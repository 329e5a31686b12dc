module mrg.bluebird.id/lab/pause

go 1.26
