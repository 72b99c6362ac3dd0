"Checks of a data set: decode every photo, in processes that may die of one, and find faults in what was decoded."
