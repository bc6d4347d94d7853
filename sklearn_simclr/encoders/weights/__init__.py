"""Read published weights: TensorFlow checkpoints, torch and safetensors files."""
