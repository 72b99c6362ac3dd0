"Photos on disk, before they are decoded: their files, their headers, and labels from folders or a CSV."
