"""Things with parameters or state that algorithms are assembled from: networks, mixers, replay, schedules."""
