"""MQTT v5 through aiomqtt."""
