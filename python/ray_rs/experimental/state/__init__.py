"""`ray.experimental.state`: where the state API was before it became `ray.util.state`."""
