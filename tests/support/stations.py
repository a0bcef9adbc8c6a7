"""The original's event model, said plainly: every event looks at every station."""

from services.admin.planner.published_events import PublishedCluster

LATENCIES = (2, 5)
NUM_STAGES = 6


def published_wraps(cluster: PublishedCluster, num_wraps: int) -> list[float]:
    """Give the times at which the first microbatch comes round."""
    delays = [delay for delay, _ in cluster.delays_ms.of_layer()]
    slices = [index for index, count in enumerate(cluster.layers_per_slice) for _ in range(count)]
    num_stations = NUM_STAGES * len(cluster.layers_per_slice)
    free_at = [0.0] * num_stations
    # Of each station: (step, arrival, microbatch), in the order in which they were sent there.
    waiting: list[list[tuple[int, float, int]]] = [[] for _ in range(num_stations)]
    waiting[0] = [(0, 0.0, microbatch) for microbatch in range(cluster.in_flight)]
    wraps: list[float] = []

    def is_latency(station: int) -> bool:
        return station % NUM_STAGES in LATENCIES

    def next_event(station: int) -> float:
        if not waiting[station]:
            return float("inf")
        first = min(arrival for _, arrival, _ in waiting[station])
        return first if is_latency(station) else max(first, free_at[station])

    while len(wraps) < num_wraps:
        station = min(range(num_stations), key=next_event)
        now = next_event(station)
        arrived = [each for each in waiting[station] if each[1] <= now]
        depth = (lambda each: 0) if is_latency(station) else (lambda each: -each[0])
        chosen = min(arrived, key=lambda each: (depth(each), each[1]))
        waiting[station].remove(chosen)
        step, _, microbatch = chosen
        last = step == NUM_STAGES * (len(slices) - 1)
        end = now + (cluster.delays_ms.tier1_last if last else delays[station % NUM_STAGES])
        if not is_latency(station):
            free_at[station] = end
        step = (step + 1) % (NUM_STAGES * len(slices))
        place = slices[step // NUM_STAGES] * NUM_STAGES + step % NUM_STAGES
        waiting[place].append((step, end, microbatch))
        if step == 0 and microbatch == 0:
            wraps.append(end)
    return wraps
