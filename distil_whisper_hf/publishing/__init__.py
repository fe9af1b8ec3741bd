"""Repositories on the Hub: releases, their cards, and pushing them."""
