"""Results sent to an MQTT broker."""
