"""Automatic intermediate rewards (AIR): rules that watch a conversation and score its steps."""
