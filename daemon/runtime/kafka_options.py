"""Converts the configuration's Kafka section to the options of the connector."""

from __future__ import annotations

from connectors.kafka.client import KafkaOptions
from daemon.config.intake import KafkaConfig
from daemon.config.secret import secret


def kafka_options(config: KafkaConfig) -> KafkaOptions:
    """The connection options of the configured cluster.

    Raises:
        ConfigError: when the variable with the SASL password is not set.
    """
    return KafkaOptions(
        bootstrap_servers=tuple(config.bootstrap_servers),
        client_id=config.client_id,
        security_protocol=config.security_protocol,
        ssl_cafile=config.ssl_cafile,
        ssl_certfile=config.ssl_certfile,
        ssl_keyfile=config.ssl_keyfile,
        sasl_mechanism=config.sasl_mechanism,
        sasl_username=config.sasl_username,
        sasl_password=secret(config.sasl_password_env),
    )
