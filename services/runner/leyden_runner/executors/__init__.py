"""How an agent is executed. Kept free of imports: the zygote process loads this package too."""
