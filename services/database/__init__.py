"""What the service keeps beside the stores: projects, keys, grants, audit and a catalogue that can be made again."""
